"""Statistics and centred tiles of one sample's features, (C, M) with any strides.

The *centre* of a channel is its mean less its first position: both are subtracted, so that a constant channel is zero
exactly.
"""

import triton
import triton.language as tl

from .arguments import Sample


@triton.jit
def widen(stride, WIDE: tl.constexpr):
    """Widen a stride to 64 bits where a sample spans 2^31 elements or more; 32 bits cost fewer registers."""
    if WIDE:
        return tl.cast(stride, tl.int64)
    else:
        return stride


@triton.jit
def aligned(value, ALIGN: tl.constexpr):
    """Let it be known that a stride or a number of positions is a multiple of ALIGN: loads may be so much wider."""
    # One choice, not a return and what follows: that would be compiled too, and refuse a stride of 1, a constant.
    if ALIGN == 1:
        return value
    else:
        return tl.multiple_of(value // ALIGN * ALIGN, ALIGN)


@triton.jit
def sample_of(features, sample, C, M, WIDE: tl.constexpr, ALIGN: tl.constexpr):
    """Find the features of one sample; see :func:`widen` and :func:`aligned`."""
    data = features.data + sample * aligned(features.stride_b, ALIGN)
    stride_c, stride_m = widen(aligned(features.stride_c, ALIGN), WIDE), widen(features.stride_m, WIDE)
    return Sample(data=data, stride_c=stride_c, stride_m=stride_m, C=C, M=aligned(M, ALIGN))


@triton.jit
def first_position(x, rows):
    """Load x[rows, 0] in float32, the shift that makes a constant channel exactly zero; 0 beyond the channels."""
    return tl.load(x.data + rows * x.stride_c, mask=rows < x.C, other=0.0).to(tl.float32)


@triton.jit
def load_centre(centre, x, rows):
    """Load the centres of the channels ``rows``; 0 beyond the channels."""
    return tl.load(centre + rows, mask=rows < x.C, other=0.0)


@triton.jit
def centred_tile(x, rows, positions, shift, centre):
    """Load x[rows, positions] - shift - centre in float32, zero beyond the channels and positions."""
    inside = (rows[:, None] < x.C) & (positions[None, :] < x.M)
    at = rows[:, None] * x.stride_c + positions[None, :] * x.stride_m
    tile = tl.load(x.data + at, mask=inside, other=0.0)
    return tl.where(inside, tile.to(tl.float32) - shift[:, None] - centre[:, None], 0.0)


@triton.jit
def store_features(out, tile, rows, positions):
    """Store a tile of features, but for what lies beyond the channels and positions."""
    inside = (rows[:, None] < out.C) & (positions[None, :] < out.M)
    pointers = out.data + rows[:, None] * out.stride_c + positions[None, :] * out.stride_m
    tl.store(pointers, tile.to(out.data.dtype.element_ty), mask=inside)


@triton.jit
def centre_of(x, rows, shift, BLOCK_M: tl.constexpr):
    """Compute the mean of the channels ``rows`` less their shift."""
    zero = tl.zeros_like(shift)
    # Added up position by position: a sum over a tile costs barriers, so there is one, after the loop.
    total = tl.zeros((rows.shape[0], BLOCK_M), tl.float32)
    for start in range(0, x.M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        total += centred_tile(x, rows, positions, shift, zero)
    return tl.sum(total, axis=1) / x.M


@triton.jit
def statistics(x, rows, BLOCK_M: tl.constexpr):
    """Compute shift, centre and the sum of squared deviations from the mean of the channels ``rows``."""
    shift = first_position(x, rows)
    centre = centre_of(x, rows, shift, BLOCK_M)
    squares = tl.zeros((rows.shape[0], BLOCK_M), tl.float32)
    for start in range(0, x.M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        tile = centred_tile(x, rows, positions, shift, centre)
        squares += tile * tile
    return shift, centre, tl.sum(squares, axis=1)
