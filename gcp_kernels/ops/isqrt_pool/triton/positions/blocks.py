"""What is done block by block of channels: a tile has BLOCK_C channels, and all positions.

z is (x - mu) times a scale, G half of the upstream gradient and its transpose. H = 2 G z lies in global memory between
phases, in float32. Of each block of it the rows of G are divided by their largest magnitude, which is kept beside it,
so that no gradient is too large or too small for float16. The derivative is linear in G, so it is undone at the end.
"""

import triton
import triton.language as tl

from ....triton_device.features import centred_tile, first_position, load_centre, store_features
from ....triton_device.products import accumulate, accumulated, direction, multiply_add, split
from ....triton_device.tiles import block_of
from ....triton_device.triangle import store_symmetric, symmetric_tile


@triton.jit
def store_centres(x, centre, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """Store the centres of all channels; give the sum of squared deviations from the means."""
    positions = tl.arange(0, BLOCK_M)
    squares = tl.zeros((BLOCK_C, BLOCK_M), tl.float32)
    for start in range(0, x.C, BLOCK_C):
        rows = start + tl.arange(0, BLOCK_C)
        shift = first_position(x, rows)
        tile = centred_tile(x, rows, positions, shift, tl.zeros_like(shift))
        mean = tl.sum(tile, axis=1) / x.M
        tl.store(centre + rows, mean, mask=rows < x.C)
        deviations = tl.where(positions[None, :] < x.M, tile - mean[:, None], 0.0)
        squares += deviations * deviations
    return tl.sum(squares)


@triton.jit
def scaled_block(x, centre, scale, block, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """Load a block of z."""
    rows = block_of(block, BLOCK_C)
    shift, mean = first_position(x, rows), load_centre(centre, x, rows)
    return centred_tile(x, rows, tl.arange(0, BLOCK_M), shift, mean) * scale


@triton.jit
def gram_matrix(x, centre, scale, PLANES: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """Compute K = z^T z."""
    total = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    for block in range(tl.cdiv(x.C, BLOCK_C)):
        high, low = split(scaled_block(x, centre, scale, block, BLOCK_C, BLOCK_M))
        total = accumulate(tl.trans(high), tl.trans(low), high, low, total, PLANES)
    return accumulated(total, PLANES)


@triton.jit
def store_pooled_rows(
    x,
    centre,
    scale,
    factor_high,
    factor_low,
    undo,
    root,
    pooled,
    block,
    TRIU: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store the upper tiles of a row of blocks of root * undo * (z q z^T), q as planes."""
    rows = block_of(block, BLOCK_C)
    high, low = split(scaled_block(x, centre, scale, block, BLOCK_C, BLOCK_M))
    product = multiply_add(high, low, factor_high, factor_low, tl.zeros((BLOCK_C, BLOCK_M), tl.float32), 2)
    high, low = split(product * undo)
    for other in range(block, tl.cdiv(x.C, BLOCK_C)):
        other_high, other_low = split(scaled_block(x, centre, scale, other, BLOCK_C, BLOCK_M))
        zero = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
        tile = multiply_add(high, low, tl.trans(other_high), tl.trans(other_low), zero, 2)
        store_symmetric(pooled, tile * root, rows, block_of(other, BLOCK_C), x.C, TRIU)


@triton.jit
def at_block(matrix, block, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """List the addresses of a block of H."""
    return matrix + block_of(block, BLOCK_C)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]


@triton.jit
def store_direction_rows(
    grad,
    sample,
    x,
    centre,
    scale,
    products,
    largest,
    block,
    WIDE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store a block of H, over the largest magnitude in its rows of 2 G, and that magnitude.

    Rows are read once: what was summed is divided again where a larger magnitude turns up. Operands are split in two in
    every precision: of all products this one's rounding counts most, for near rank one four times what is left.
    """
    rows = block_of(block, BLOCK_C)
    most = 0.0
    total = tl.zeros((BLOCK_C, BLOCK_M), tl.float32)
    for other in range(tl.cdiv(x.C, BLOCK_C)):
        twice_g = symmetric_tile(grad, sample, rows, block_of(other, BLOCK_C), x.C, WIDE)
        larger = tl.maximum(most, tl.max(tl.abs(twice_g)))
        left_high, left_low = split(direction(twice_g, larger, 1.0))
        high, low = split(scaled_block(x, centre, scale, other, BLOCK_C, BLOCK_M))
        total = multiply_add(left_high, left_low, high, low, total * share_of(most, larger), 2)
        most = larger
    tl.store(at_block(products, block, BLOCK_C, BLOCK_M), total)
    tl.store(largest + block, most)


@triton.jit
def share_of(part, whole):
    """Compute part / whole; 1 where the whole is 0, so that NaN stays NaN where all else is zero."""
    return tl.where(whole == 0, 1.0, tl.div_rn(part, whole))


@triton.jit
def direction_block(products, largest, most, block, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr):
    """Load a block of H, over ``most``, the largest magnitude of all of 2 G."""
    share = share_of(tl.load(largest + block), most)
    return tl.load(at_block(products, block, BLOCK_C, BLOCK_M)) * share


@triton.jit
def gram_and_direction(
    x,
    centre,
    scale,
    products,
    largest,
    most,
    PLANES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute K = z^T z and P = z^T H."""
    gram = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    for block in range(tl.cdiv(x.C, BLOCK_C)):
        high, low = split(scaled_block(x, centre, scale, block, BLOCK_C, BLOCK_M))
        right_high, right_low = split(direction_block(products, largest, most, block, BLOCK_C, BLOCK_M))
        gram = accumulate(tl.trans(high), tl.trans(low), high, low, gram, PLANES)
        total = accumulate(tl.trans(high), tl.trans(low), right_high, right_low, total, PLANES)
    return accumulated(gram, PLANES), accumulated(total, PLANES)


@triton.jit
def store_gradient_block(
    x,
    centre,
    scale,
    products,
    largest,
    most,
    factor_high,
    factor_low,
    derivative_high,
    derivative_low,
    span,
    undo,
    grad_x,
    block,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store a block of undo * (H q + span z (L + a I)), q and L + a I as planes."""
    zero = tl.zeros((BLOCK_C, BLOCK_M), tl.float32)
    high, low = split(scaled_block(x, centre, scale, block, BLOCK_C, BLOCK_M))
    gradient = multiply_add(high, low, derivative_high, derivative_low, zero, 2) * span
    high, low = split(direction_block(products, largest, most, block, BLOCK_C, BLOCK_M))
    gradient += multiply_add(high, low, factor_high, factor_low, zero, 2)
    store_features(grad_x, gradient * undo, block_of(block, BLOCK_C), tl.arange(0, BLOCK_M))
