"""Plain covariance pooling, diag(s) Sigma diag(s): one launch forward, one backward.

A program of the forward pass is one tile of one sample; it finds the means of its own channels, so no program waits for
another. Nothing is normalised here, so operands stay float32 and are multiplied as TF32, rounded to nearest ("fast"),
or as three products of TF32 parts ("high", PLANES = 2).
"""

import triton
import triton.language as tl

from ...triton_device.features import (
    centre_of,
    centred_tile,
    first_position,
    load_centre,
    sample_of,
    store_features,
    widen,
)
from ...triton_device.products import chained
from ...triton_device.tiles import block_of
from ...triton_device.triangle import store_symmetric, symmetric_tile, upper_tile


@triton.jit
def round_to_tf32(value):
    """Round to the nearest float32 with a significand of 11 bits: tensor cores by themselves cut the bits off."""
    bits = (value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    # Infinity and NaN keep their bits.
    return tl.where(tl.abs(value) < float("inf"), bits.to(tl.float32, bitcast=True), value)


@triton.jit
def multiply_add_tf32(left, right, total, PLANES: tl.constexpr):
    """Compute total + left @ right of float32 operands; see ``products`` for what "high" does with accumulators."""
    left_high, right_high = round_to_tf32(left), round_to_tf32(right)
    if PLANES == 1:
        return tl.dot(left_high, right_high, total, input_precision="tf32")
    # Twice the product, and then half of it: so Triton leaves the addition where it is.
    left_low, right_low = 2 * round_to_tf32(left - left_high), round_to_tf32(right - right_high)
    left_high *= 2
    product = tl.dot(left_low, right_high, input_precision="tf32")
    if chained():
        product = tl.dot(left_high, right_low, product, input_precision="tf32")
        return total + tl.dot(left_high, right_high, product, input_precision="tf32") * 0.5
    total += product * 0.5
    total += tl.dot(left_high, right_low, input_precision="tf32") * 0.5
    return total + tl.dot(left_high, right_high, input_precision="tf32") * 0.5


@triton.jit
def scale_of(scales, sample, rows, C, WIDE: tl.constexpr):
    """Load the scales of the channels ``rows`` in float32."""
    at = scales.data + sample * scales.stride_b + rows * widen(scales.stride_c, WIDE)
    return tl.load(at, mask=rows < C, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["M"])
def covariance_pool_forward_kernel(
    x,
    scales,
    pooled,
    centre,
    C,
    M,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute a tile of the covariance; those on the diagonal store the centres. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    program = tl.program_id(0)
    sample = (program // TILES).to(tl.int64)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    i, j = upper_tile(program % TILES)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    row_shift, column_shift = first_position(own, rows), first_position(own, columns)
    row_centre = centre_of(own, rows, row_shift, BLOCK_M)
    column_centre = row_centre
    if i == j:
        tl.store(centre + sample * C + rows, row_centre, mask=rows < C)
    else:
        column_centre = centre_of(own, columns, column_shift, BLOCK_M)
    if scales is not None:
        row_scale, column_scale = scale_of(scales, sample, rows, C, WIDE), scale_of(scales, sample, columns, C, WIDE)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, own.M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        left = centred_tile(own, rows, positions, row_shift, row_centre)
        right = centred_tile(own, columns, positions, column_shift, column_centre)
        if scales is not None:
            left, right = left * row_scale[:, None], right * column_scale[:, None]
        total = multiply_add_tf32(left, tl.trans(right), total, PLANES)
    size = C * (C + 1) // 2 if TRIU else C * C
    store_symmetric(pooled + sample * size, total / own.M, rows, columns, C, TRIU)


@triton.jit(do_not_specialize=["M"])
def covariance_pool_backward_kernel(
    grad,
    x,
    scales,
    centre,
    grad_x,
    grad_scale,
    C,
    M,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute gradients of a block of channels: diag(s) H, and the sums of (x - mu) o H. Grid: B x blocks.

    H = (G + G^T) diag(s) (x - mu) / M, G being the upstream gradient as a full matrix.
    """
    program = tl.program_id(0)
    sample = (program // BLOCKS).to(tl.int64)
    own, out = sample_of(x, sample, C, M, WIDE, ALIGN), sample_of(grad_x, sample, C, M, WIDE, ALIGN)
    centre += sample * C
    rows = block_of(program % BLOCKS, BLOCK)
    if scales is not None:
        shift = first_position(own, rows)
        mean = load_centre(centre, own, rows)
        row_scale = scale_of(scales, sample, rows, C, WIDE)
        total_scale = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, own.M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        total = tl.zeros((BLOCK, BLOCK_M), tl.float32)
        for k in range(0, C, BLOCK_K):
            channels = k + tl.arange(0, BLOCK_K)
            twice_g = symmetric_tile(grad, sample, rows, channels, C, WIDE)
            other_shift, other_mean = first_position(own, channels), load_centre(centre, own, channels)
            other = centred_tile(own, channels, positions, other_shift, other_mean)
            if scales is not None:
                other *= scale_of(scales, sample, channels, C, WIDE)[:, None]
            total = multiply_add_tf32(twice_g, other, total, PLANES)
        h = total / own.M
        if scales is not None:
            tile = centred_tile(own, rows, positions, shift, mean)
            total_scale += tl.sum(tile * h, axis=1)
            h *= row_scale[:, None]
        store_features(out, h, rows, positions)
    if scales is not None:
        tl.store(grad_scale + sample * C + rows, total_scale.to(grad_scale.dtype.element_ty), mask=rows < C)
