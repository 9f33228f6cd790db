"""One program, one sample, one launch: every matrix stays in registers and shared memory.

All of docs/mathematics.md is here in its order: statistics, covariance, normalisation, iteration (:func:`root_of`) and,
for the backward pass, the same iteration on matrices with tangents (:func:`root_and_tangent`). The source
is features, which have centres, or covariances that are given, and have none.
"""

import triton
import triton.language as tl

from ...triton_device.features import (
    centred_tile,
    first_position,
    load_centre,
    sample_of,
    statistics,
    store_features,
)
from ...triton_device.products import (
    accumulate,
    accumulated,
    direction,
    growth_of,
    inverse_root,
    multiply,
    multiply_add,
    multiply_tangent,
    split,
)
from ...triton_device.triangle import load_diagonal, normalised_tile, store_symmetric, symmetric_tile


@triton.jit
def normalised_covariance(x, shift, centre, scale, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, PLANES: tl.constexpr):
    """Compute A = (scale (x - mu)) (scale (x - mu))^T, (BLOCK_C, BLOCK_C)."""
    rows = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
    for start in range(0, x.M, BLOCK_M):
        positions = start + tl.arange(0, BLOCK_M)
        tile = centred_tile(x, rows, positions, shift, centre) * scale
        high, low = split(tile)
        total = accumulate(high, low, tl.trans(high), tl.trans(low), total, PLANES)
    return accumulated(total, PLANES)


@triton.jit
def normalised_matrix(matrices, sample, C, WIDE: tl.constexpr, BLOCK_C: tl.constexpr):
    """Compute A and the trace of a given covariance."""
    rows = tl.arange(0, BLOCK_C)
    trace = tl.sum(load_diagonal(matrices, sample, rows, C, WIDE))
    return normalised_tile(matrices, sample, trace, rows, rows, C, WIDE), trace


@triton.jit
def root_of(a, n_iter, PLANES: tl.constexpr):
    """Compute Y_N of a matrix A with trace 1."""
    w = a
    v = multiply(w, w, tl.zeros_like(w), PLANES)
    y = 1.5 * w - 0.5 * v
    if n_iter > 1:
        w = 0.25 * multiply(w, v, 9 * w - 6 * v, PLANES)
        for _ in range(n_iter - 2):
            y = -0.5 * multiply(y, w, -3 * y, PLANES)
            v = multiply(w, w, tl.zeros_like(w), PLANES)
            w = 0.25 * multiply(w, v, 9 * w - 6 * v, PLANES)
        y = -0.5 * multiply(y, w, -3 * y, PLANES)
    return y


@triton.jit
def root_and_tangent(a, d_a, n_iter, PLANES: tl.constexpr):
    """Compute Y_N of A, and its derivative in the direction ``d_a``."""
    w, dw = a, d_a
    zero = tl.zeros_like(w)
    v = multiply(w, w, zero, PLANES)
    dv = multiply_tangent(w, dw, w, dw, zero, PLANES)
    y, dy = 1.5 * w - 0.5 * v, 1.5 * dw - 0.5 * dv
    if n_iter > 1:
        dw = 0.25 * multiply_tangent(w, dw, v, dv, 9 * dw - 6 * dv, PLANES)
        w = 0.25 * multiply(w, v, 9 * w - 6 * v, PLANES)
        for _ in range(n_iter - 2):
            dy = -0.5 * multiply_tangent(y, dy, w, dw, -3 * dy, PLANES)
            y = -0.5 * multiply(y, w, -3 * y, PLANES)
            v = multiply(w, w, zero, PLANES)
            dv = multiply_tangent(w, dw, w, dw, zero, PLANES)
            dw = 0.25 * multiply_tangent(w, dw, v, dv, 9 * dw - 6 * dv, PLANES)
            w = 0.25 * multiply(w, v, 9 * w - 6 * v, PLANES)
        dy = -0.5 * multiply_tangent(y, dy, w, dw, -3 * dy, PLANES)
        y = -0.5 * multiply(y, w, -3 * y, PLANES)
    return y, dy


@triton.jit(do_not_specialize=["M", "n_iter"])
def isqrt_pool_on_chip_forward_kernel(
    source,
    pooled,
    centre,
    trace,
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
    """Pool one sample. Grid: B."""
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BLOCK_C)
    if centre is not None:
        x = sample_of(source, sample, C, M, WIDE, ALIGN)
        shift, mean, squares = statistics(x, rows, BLOCK_M)
        tl.store(centre + sample * C + rows, mean, mask=rows < C)
        total = tl.sum(squares)
        t = total / x.M
        a = normalised_covariance(x, shift, mean, inverse_root(total), BLOCK_C, BLOCK_M, PLANES)
    else:
        a, t = normalised_matrix(source, sample, C, WIDE, BLOCK_C)
    tl.store(trace + sample, t)
    y = root_of(a, n_iter, PLANES) * tl.sqrt_rn(t)
    size = C * (C + 1) // 2 if TRIU else C * C
    store_symmetric(pooled + sample * size, y, rows, rows, C, TRIU)


@triton.jit(do_not_specialize=["M", "n_iter"])
def isqrt_pool_on_chip_backward_kernel(
    grad,
    source,
    centre,
    trace,
    grad_source,
    C,
    M,
    n_iter,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Differentiate the pooling of one sample. Grid: B."""
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BLOCK_C)
    t = tl.load(trace + sample)
    if centre is not None:
        x, grad_x = sample_of(source, sample, C, M, WIDE, ALIGN), sample_of(grad_source, sample, C, M, WIDE, ALIGN)
        shift = first_position(x, rows)
        mean = load_centre(centre + sample * C, x, rows)
        scale = inverse_root(t * x.M)
        a = normalised_covariance(x, shift, mean, scale, BLOCK_C, BLOCK_M, PLANES)
    else:
        a, _ = normalised_matrix(source, sample, C, WIDE, BLOCK_C)
    twice_g = symmetric_tile(grad, sample, rows, rows, C, WIDE)
    largest = tl.max(tl.abs(twice_g))
    growth = growth_of(C, n_iter)
    y, d = root_and_tangent(a, direction(twice_g, largest, growth), n_iter, PLANES)
    # Read a second time: kept, it would take registers through the whole iteration.
    g = direction(symmetric_tile(grad, sample, rows, rows, C, WIDE), largest, growth)
    trace_term = tl.sum(0.5 * g * y - d * a)
    d = tl.where(rows[:, None] == rows[None, :], d + trace_term, d)
    if centre is not None:
        high, low = split(d)
        factor = growth * largest / tl.sqrt_rn(x.M * 1.0)
        for start in range(0, x.M, BLOCK_M):
            positions = start + tl.arange(0, BLOCK_M)
            tile = centred_tile(x, rows, positions, shift, mean) * scale
            tile_high, tile_low = split(tile)
            gradient = multiply_add(high, low, tile_high, tile_low, tl.zeros((BLOCK_C, BLOCK_M), tl.float32), 2)
            store_features(grad_x, gradient * factor, rows, positions)
    else:
        factor = 0.5 * growth * largest * inverse_root(t)
        store_symmetric(grad_source + sample * C * C, d * factor, rows, rows, C, False)
