"""Statistics and centred tiles of one sample's features, (C, M) with any strides."""

import triton
import triton.language as tl


@triton.jit
def widen(stride, WIDE: tl.constexpr):
    """A stride for 64-bit offsets, where a sample spans 2^31 elements or more; 32 bits cost fewer registers."""
    if WIDE:
        return tl.cast(stride, tl.int64)
    else:
        return stride


@triton.jit
def aligned(value, ALIGN: tl.constexpr):
    """A stride or a number of positions that is a multiple of ALIGN, known as such: loads may then be so much wider."""
    # One choice, not a return and what follows: that would be compiled too, and refuse a stride of 1, a constant.
    if ALIGN == 1:
        return value
    else:
        return tl.multiple_of(value // ALIGN * ALIGN, ALIGN)


@triton.jit
def first_position(x, rows, C, stride_c):
    """x[rows, 0] in float32, the shift that makes a constant channel exactly zero; 0 beyond the channels."""
    return tl.load(x + rows * stride_c, mask=rows < C, other=0.0).to(tl.float32)


@triton.jit
def centred_tile(x, rows, columns, shift, offset, C, M, stride_c, stride_m):
    """x[rows, columns] - shift - offset in float32, zero beyond the channels and positions."""
    inside = (rows[:, None] < C) & (columns[None, :] < M)
    at = rows[:, None] * stride_c + columns[None, :] * stride_m
    tile = tl.load(x + at, mask=inside, other=0.0)
    return tl.where(inside, tile.to(tl.float32) - shift[:, None] - offset[:, None], 0.0)


@triton.jit
def mean_offset(x, rows, shift, C, M, stride_c, stride_m, BLOCK_M: tl.constexpr):
    """Mean of the channels ``rows`` less their shift."""
    zero = tl.zeros_like(shift)
    # Added up position by position: a sum over a tile costs barriers, so there is one, after the loop.
    total = tl.zeros((rows.shape[0], BLOCK_M), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        total += centred_tile(x, rows, columns, shift, zero, C, M, stride_c, stride_m)
    return tl.sum(total, axis=1) / M


@triton.jit
def statistics(x, rows, C, M, stride_c, stride_m, BLOCK_M: tl.constexpr):
    """Of the channels ``rows``: shift, offset (mean less shift), and the sum of squared deviations from the mean."""
    shift = first_position(x, rows, C, stride_c)
    offset = mean_offset(x, rows, shift, C, M, stride_c, stride_m, BLOCK_M)
    squares = tl.zeros((rows.shape[0], BLOCK_M), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        tile = centred_tile(x, rows, columns, shift, offset, C, M, stride_c, stride_m)
        squares += tile * tile
    return shift, offset, tl.sum(squares, axis=1)
