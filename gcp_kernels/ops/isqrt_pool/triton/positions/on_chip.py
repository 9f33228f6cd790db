"""Few positions, any number of channels: a program for each sample in one launch, or several in two or three.

The Gram matrix K of a sample's positions stays on chip, as the covariance does in ``isqrt_pool/triton/on_chip.py``.
Channels are read in blocks: once for statistics and for K, and for the result and for H once for each row of blocks.
Where samples are few, phases that treat each block of channels by itself are launches of their own, with a program for
each block: then ``factor`` is there, or SHARED is set, and matrices of (BLOCK_M, BLOCK_M) pass through memory.

Backward, H takes C rows of BLOCK_M float32 for each sample, and what W leaves for Z, in "high" from 64 positions on,
32 KiB for each iteration: 134 and 34 MB for 256 samples of 2048 channels at 7x7 positions.
"""

import triton
import triton.language as tl

from ....triton_device.features import sample_of
from ....triton_device.products import direction, inverse_root, split
from ..iteration import identity, regularised, unit_of
from ..phases import largest_of, program_of
from .blocks import (
    gram_and_direction,
    gram_matrix,
    store_centres,
    store_direction_rows,
    store_gradient_block,
    store_pooled_rows,
)
from .factor import at_square, factor_and_tangent, factor_of


@triton.jit(do_not_specialize=["M", "n_iter"])
def isqrt_pool_positions_forward_kernel(
    x,
    pooled,
    centre,
    trace,
    factor,
    C,
    M,
    n_iter,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Pool one sample or, where the programs share it, leave q(K) in ``factor``. Grid: B."""
    sample = tl.program_id(0).to(tl.int64)
    own, own_centre = sample_of(x, sample, C, M, WIDE, ALIGN), centre + sample * C
    total = store_centres(own, own_centre, BLOCK_C, BLOCK_M)
    t = total / own.M
    scale = inverse_root(t * own.M)  # which the backward pass can make again
    tl.store(trace + sample, t)
    tl.debug_barrier()
    positions = tl.arange(0, BLOCK_M)
    k = gram_matrix(own, own_centre, scale, PLANES, BLOCK_C, BLOCK_M)
    unit = unit_of(n_iter)
    q = factor_of(regularised(k, positions, positions, own.M, t), unit, n_iter, PLANES)
    if factor is not None:
        tl.store(at_square(factor, sample, BLOCK_M), q)
    else:
        high, low = split(q)
        size = C * (C + 1) // 2 if TRIU else C * C
        for block in range(tl.cdiv(C, BLOCK_C)):
            store_pooled_rows(
                own, own_centre, scale, high, low, 1.0 / unit, tl.sqrt_rn(t), pooled + sample * size, block,
                TRIU, BLOCK_C, BLOCK_M,
            )  # fmt: skip


@triton.jit(do_not_specialize=["M", "n_iter"])
def isqrt_pool_positions_rows_kernel(
    x,
    pooled,
    centre,
    trace,
    factor,
    C,
    M,
    n_iter,
    TRIU: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store a row of blocks of the result. Grid: B x blocks."""
    sample, block = program_of(tl.cdiv(C, BLOCK_C))
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    t = tl.load(trace + sample)
    high, low = split(tl.load(at_square(factor, sample, BLOCK_M)))
    size = C * (C + 1) // 2 if TRIU else C * C
    store_pooled_rows(
        own, centre + sample * C, inverse_root(t * own.M), high, low, 1.0 / unit_of(n_iter), tl.sqrt_rn(t),
        pooled + sample * size, block, TRIU, BLOCK_C, BLOCK_M,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M"])
def isqrt_pool_positions_direction_kernel(
    grad,
    x,
    centre,
    trace,
    products,
    largest,
    C,
    M,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store a block of H. Grid: B x blocks."""
    blocks = tl.cdiv(C, BLOCK_C)
    sample, block = program_of(blocks)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    store_direction_rows(
        grad, sample, own, centre + sample * C, inverse_root(tl.load(trace + sample) * own.M),
        products + sample * (blocks * BLOCK_C * BLOCK_M), largest + sample * blocks, block,
        WIDE, BLOCK_C, BLOCK_M,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M", "n_iter"])
def isqrt_pool_positions_backward_kernel(
    grad,
    x,
    centre,
    trace,
    grad_x,
    products,
    largest,
    squares,
    history,
    spans,
    C,
    M,
    n_iter,
    SHARED: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Differentiate the pooling of one sample. Grid: B.

    Where programs share a sample, H is there already, and q(K) and L + a I are left in ``squares``.
    """
    sample = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(C, BLOCK_C)
    own, own_centre = sample_of(x, sample, C, M, WIDE, ALIGN), centre + sample * C
    products += sample * (blocks * BLOCK_C * BLOCK_M)
    largest += sample * blocks
    squares += sample * (2 * BLOCK_M * BLOCK_M)
    t = tl.load(trace + sample)
    scale = inverse_root(t * own.M)
    if not SHARED:
        for block in range(blocks):
            store_direction_rows(grad, sample, own, own_centre, scale, products, largest, block, WIDE, BLOCK_C, BLOCK_M)
        tl.debug_barrier()
    most = largest_of(largest, blocks)
    k, p = gram_and_direction(own, own_centre, scale, products, largest, most, PLANES, BLOCK_C, BLOCK_M)
    positions = tl.arange(0, BLOCK_M)
    k = regularised(k, positions, positions, own.M, t)
    largest_p = tl.max(tl.abs(p))
    # Symmetric to the last bit, which the iteration needs: what is not would grow by 9/4 in every step.
    p = direction(0.5 * (p + tl.trans(p)), largest_p, own.M)
    # Kept in memory: in registers, they would take them through the whole iteration.
    tl.store(at_square(squares, 0, BLOCK_M), k)
    tl.store(at_square(squares, 1, BLOCK_M), p)
    tl.debug_barrier()
    if history is not None:
        history += sample * (n_iter - 1) * (4 * BLOCK_M * BLOCK_M)
    unit = unit_of(n_iter)
    q, derivative = factor_and_tangent(k, p, unit, n_iter, history, PLANES, BLOCK_M)
    k, p = tl.load(at_square(squares, 0, BLOCK_M)), tl.load(at_square(squares, 1, BLOCK_M))
    trace_term = -tl.sum(0.5 * q * p + derivative * k)
    derivative += trace_term * identity(positions, positions)
    if SHARED:
        tl.debug_barrier()
        tl.store(at_square(squares, 0, BLOCK_M), q)
        tl.store(at_square(squares, 1, BLOCK_M), derivative)
        tl.store(spans + sample, largest_p * own.M)
    else:
        high, low = split(q)
        derivative_high, derivative_low = split(derivative)
        own_grad = sample_of(grad_x, sample, C, M, WIDE, ALIGN)
        for block in range(blocks):
            store_gradient_block(
                own, own_centre, scale, products, largest, most, high, low, derivative_high, derivative_low,
                largest_p * own.M, most / (unit * tl.sqrt_rn(own.M * 1.0)), own_grad, block, BLOCK_C, BLOCK_M,
            )  # fmt: skip


@triton.jit(do_not_specialize=["M", "n_iter"])
def isqrt_pool_positions_gradient_kernel(
    x,
    centre,
    trace,
    grad_x,
    products,
    largest,
    squares,
    spans,
    C,
    M,
    n_iter,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store a block of the gradient of the features. Grid: B x blocks."""
    blocks = tl.cdiv(C, BLOCK_C)
    sample, block = program_of(blocks)
    own, own_grad = sample_of(x, sample, C, M, WIDE, ALIGN), sample_of(grad_x, sample, C, M, WIDE, ALIGN)
    most = largest_of(largest + sample * blocks, blocks)
    squares += sample * (2 * BLOCK_M * BLOCK_M)
    high, low = split(tl.load(at_square(squares, 0, BLOCK_M)))
    derivative_high, derivative_low = split(tl.load(at_square(squares, 1, BLOCK_M)))
    store_gradient_block(
        own, centre + sample * C, inverse_root(tl.load(trace + sample) * own.M),
        products + sample * (blocks * BLOCK_C * BLOCK_M), largest + sample * blocks, most,
        high, low, derivative_high, derivative_low, tl.load(spans + sample),
        most / (unit_of(n_iter) * tl.sqrt_rn(own.M * 1.0)), own_grad, block, BLOCK_C, BLOCK_M,
    )  # fmt: skip
