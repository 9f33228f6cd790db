"""Tiles of symmetric matrices that users give and take, as full matrices or as row-major upper triangles."""

import triton
import triton.language as tl


@triton.jit
def upper_tile(index):
    """Row and column block of the ``index``-th upper tile, column after column: (0,0), (0,1), (1,1), (0,2), ..."""
    column = ((tl.sqrt_rn(8.0 * tl.cast(index, tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    return index - column * (column + 1) // 2, column


@triton.jit
def triangle_position(rows, columns, C):
    """Where element (row, column), row <= column, stands in the triangle vector."""
    return rows * C - rows * (rows - 1) // 2 + columns - rows


@triton.jit
def symmetric_tile(matrix, rows, columns, C, stride_row, stride_column, TRIU: tl.constexpr):
    """(m + m^T)[rows, columns] in float32, zero beyond C.

    A triangle vector (TRIU, of stride ``stride_row``) is read as the matrix that is zero below its diagonal.
    """
    r, c = rows[:, None], columns[None, :]
    inside = (r < C) & (c < C)
    if TRIU:
        position = triangle_position(tl.minimum(r, c), tl.maximum(r, c), C)
        tile = tl.load(matrix + position * stride_row, mask=inside, other=0.0).to(tl.float32)
        return tl.where(r == c, 2 * tile, tile)
    tile = tl.load(matrix + r * stride_row + c * stride_column, mask=inside, other=0.0).to(tl.float32)
    mirrored = tl.load(matrix + c * stride_row + r * stride_column, mask=inside, other=0.0).to(tl.float32)
    return tile + mirrored


@triton.jit
def store_symmetric(out, tile, rows, columns, C, TRIU: tl.constexpr):
    """Store an upper tile of a symmetric result, contiguous (C, C) or (C(C+1)/2,): once, or with its mirror image.

    Of a tile on the diagonal only the upper half is read, so that the result is symmetric to the last bit.
    """
    r, c = rows[:, None], columns[None, :]
    inside = (r <= c) & (c < C)
    value = tile.to(out.dtype.element_ty)
    if TRIU:
        tl.store(out + triangle_position(r, c, C), value, mask=inside)
    else:
        tl.store(out + r * C + c, value, mask=inside)
        tl.store(out + c * C + r, value, mask=inside)
