"""Plain covariance pooling, diag(s) Sigma diag(s): one launch forward, one backward.

A program of the forward pass is one tile of one sample; it finds the means of its own channels, so no program waits for
another. Nothing is normalised here, so operands stay float32 and are multiplied as TF32, rounded to nearest ("fast"),
or as three products of TF32 parts ("high", PLANES = 2).
"""

import triton
import triton.language as tl

from ...triton_device.features import aligned, centred_tile, first_position, mean_offset, widen
from ...triton_device.products import chained
from ...triton_device.tiles import block_of
from ...triton_device.triangle import store_symmetric, symmetric_tile, upper_tile


@triton.jit
def round_to_tf32(value):
    """Nearest float32 with a significand of 11 bits: tensor cores by themselves cut the bits off."""
    bits = (value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    # Infinity and NaN keep their bits.
    return tl.where(tl.abs(value) < float("inf"), bits.to(tl.float32, bitcast=True), value)


@triton.jit
def multiply_add_tf32(left, right, total, PLANES: tl.constexpr):
    """total + left @ right of float32 operands; see ``arithmetic`` for what "high" does with accumulators."""
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
def scale_of(scale, sample, rows, C, stride_b, stride_c, SCALED: tl.constexpr):
    """s of the channels ``rows`` in float32, or ones."""
    if SCALED:
        return tl.load(scale + sample * stride_b + rows * stride_c, mask=rows < C, other=0.0).to(tl.float32)
    return tl.where(rows < C, 1.0, 0.0)


@triton.jit(do_not_specialize=["M"])
def forward_kernel(
    x,
    scale,
    pooled,
    offset,
    C,
    M,
    stride_b,
    stride_c,
    stride_m,
    stride_sb,
    stride_sc,
    SCALED: tl.constexpr,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """A tile of the covariance; those on the diagonal store the offsets. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    program = tl.program_id(0)
    sample = (program // TILES).to(tl.int64)
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_c, stride_m = widen(aligned(stride_c, ALIGN), WIDE), widen(stride_m, WIDE)
    stride_sc = widen(stride_sc, WIDE)
    x += sample * stride_b
    i, j = upper_tile(program % TILES)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    row_shift, column_shift = first_position(x, rows, C, stride_c), first_position(x, columns, C, stride_c)
    row_offset = mean_offset(x, rows, row_shift, C, M, stride_c, stride_m, BLOCK_M)
    column_offset = row_offset
    if i == j:
        tl.store(offset + sample * C + rows, row_offset, mask=rows < C)
    else:
        column_offset = mean_offset(x, columns, column_shift, C, M, stride_c, stride_m, BLOCK_M)
    row_scale = scale_of(scale, sample, rows, C, stride_sb, stride_sc, SCALED)
    column_scale = scale_of(scale, sample, columns, C, stride_sb, stride_sc, SCALED)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        left = centred_tile(x, rows, positions, row_shift, row_offset, C, M, stride_c, stride_m)
        right = centred_tile(x, columns, positions, column_shift, column_offset, C, M, stride_c, stride_m)
        if SCALED:
            left, right = left * row_scale[:, None], right * column_scale[:, None]
        total = multiply_add_tf32(left, tl.trans(right), total, PLANES)
    size = C * (C + 1) // 2 if TRIU else C * C
    store_symmetric(pooled + sample * size, total / M, rows, columns, C, TRIU)


@triton.jit(do_not_specialize=["M"])
def backward_kernel(
    grad,
    x,
    scale,
    offset,
    grad_x,
    grad_scale,
    C,
    M,
    stride_gb,
    stride_g0,
    stride_g1,
    stride_b,
    stride_c,
    stride_m,
    stride_sb,
    stride_sc,
    stride_ob,
    stride_oc,
    stride_om,
    SCALED: tl.constexpr,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Gradients of a block of channels: diag(s) H, and the sums of (x - mu) o H. Grid: B x blocks.

    H = (G + G^T) diag(s) (x - mu) / M, G being the upstream gradient as a full matrix.
    """
    program = tl.program_id(0)
    sample = (program // BLOCKS).to(tl.int64)
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_c, stride_m = widen(aligned(stride_c, ALIGN), WIDE), widen(stride_m, WIDE)
    stride_sc = widen(stride_sc, WIDE)
    stride_ob, stride_oc = aligned(stride_ob, ALIGN), widen(aligned(stride_oc, ALIGN), WIDE)
    stride_om = widen(stride_om, WIDE)
    stride_g0, stride_g1 = widen(stride_g0, WIDE), widen(stride_g1, WIDE)
    x += sample * stride_b
    grad += sample * stride_gb
    grad_x += sample * stride_ob
    offset += sample * C
    rows = block_of(program % BLOCKS, BLOCK)
    shift = first_position(x, rows, C, stride_c)
    mean = tl.load(offset + rows, mask=rows < C, other=0.0)
    row_scale = scale_of(scale, sample, rows, C, stride_sb, stride_sc, SCALED)
    total_scale = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        total = tl.zeros((BLOCK, BLOCK_M), tl.float32)
        for k in range(0, C, BLOCK_K):
            channels = k + tl.arange(0, BLOCK_K)
            twice_g = symmetric_tile(grad, rows, channels, C, stride_g0, stride_g1, TRIU)
            other_shift = first_position(x, channels, C, stride_c)
            other_mean = tl.load(offset + channels, mask=channels < C, other=0.0)
            other = centred_tile(x, channels, positions, other_shift, other_mean, C, M, stride_c, stride_m)
            if SCALED:
                other *= scale_of(scale, sample, channels, C, stride_sb, stride_sc, SCALED)[:, None]
            total = multiply_add_tf32(twice_g, other, total, PLANES)
        h = total / M
        inside = (rows[:, None] < C) & (positions[None, :] < M)
        pointers = grad_x + rows[:, None] * stride_oc + positions[None, :] * stride_om
        if SCALED:
            own = centred_tile(x, rows, positions, shift, mean, C, M, stride_c, stride_m)
            total_scale += tl.sum(own * h, axis=1)
            h *= row_scale[:, None]
        tl.store(pointers, h.to(grad_x.dtype.element_ty), mask=inside)
    if SCALED:
        tl.store(grad_scale + sample * C + rows, total_scale.to(grad_scale.dtype.element_ty), mask=rows < C)
