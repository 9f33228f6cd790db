"""Tiles of symmetric matrices that users give and take, as full matrices or as upper triangles by packed index.

The packed index of element (row, column), row <= column, is its place in the upper triangle read row by row.
"""

import triton
import triton.language as tl

from .features import widen


@triton.jit
def upper_tile(index):
    """Find row and column block of the ``index``-th upper tile, column after column: (0,0), (0,1), (1,1), (0,2), ..."""
    column = ((tl.sqrt_rn(8.0 * tl.cast(index, tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    return index - column * (column + 1) // 2, column


@triton.jit
def packed_index(rows, columns, C):
    """Compute the packed index of elements (row, column), row <= column."""
    return rows * C - rows * (rows - 1) // 2 + columns - rows


@triton.jit
def symmetric_tile(matrices, sample, rows, columns, C, WIDE: tl.constexpr):
    """Load (m + m^T)[rows, columns] of the sample's matrix m in float32, zero beyond C.

    A triangle is read as the matrix that is zero below its diagonal.
    """
    matrix = matrices.data + sample * matrices.stride_b
    stride_row = widen(matrices.stride_row, WIDE)
    r, c = rows[:, None], columns[None, :]
    inside = (r < C) & (c < C)
    if matrices.stride_column is None:
        index = packed_index(tl.minimum(r, c), tl.maximum(r, c), C)
        tile = tl.load(matrix + index * stride_row, mask=inside, other=0.0).to(tl.float32)
        return tl.where(r == c, 2 * tile, tile)
    else:
        stride_column = widen(matrices.stride_column, WIDE)
        tile = tl.load(matrix + r * stride_row + c * stride_column, mask=inside, other=0.0).to(tl.float32)
        mirrored = tl.load(matrix + c * stride_row + r * stride_column, mask=inside, other=0.0).to(tl.float32)
        return tile + mirrored


@triton.jit
def load_diagonal(matrices, sample, rows, C, WIDE: tl.constexpr):
    """Load elements of the diagonal of the sample's (C, C) matrix in float32, zero beyond C."""
    step = widen(matrices.stride_row, WIDE) + widen(matrices.stride_column, WIDE)
    at = matrices.data + sample * matrices.stride_b + rows * step
    return tl.load(at, mask=rows < C, other=0.0).to(tl.float32)


@triton.jit
def trace_of(matrices, sample, C, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Compute the trace of the sample's (C, C) matrix."""
    total = 0.0
    for start in range(0, C, BLOCK):
        total += tl.sum(load_diagonal(matrices, sample, start + tl.arange(0, BLOCK), C, WIDE))
    return total


@triton.jit
def normalised_tile(matrices, sample, trace, rows, columns, C, WIDE: tl.constexpr):
    """Load a tile of the symmetric part of the sample's matrix, over its trace; zeros where that is zero."""
    tile = symmetric_tile(matrices, sample, rows, columns, C, WIDE) * 0.5
    return tl.div_rn(tile, tl.where(trace == 0, float("inf"), trace))


@triton.jit
def store_symmetric(out, tile, rows, columns, C, TRIU: tl.constexpr):
    """Store an upper tile of a symmetric result, contiguous (C, C) or (C(C+1)/2,): once, or with its mirror image.

    Of a tile on the diagonal only the upper half is read, so that the result is symmetric to the last bit.
    """
    r, c = rows[:, None], columns[None, :]
    inside = (r <= c) & (c < C)
    value = tile.to(out.dtype.element_ty)
    if TRIU:
        tl.store(out + packed_index(r, c, C), value, mask=inside)
    else:
        tl.store(out + r * C + c, value, mask=inside)
        tl.store(out + c * C + r, value, mask=inside)
