"""One program, one sample, one launch: every matrix stays in registers and shared memory.

All of docs/mathematics.md is here in its order: statistics, covariance, normalisation, iteration (:func:`root_of`) and,
for the backward pass, the same iteration on matrices with tangents (:func:`root_and_tangent`). With FEATURES the source
is (C, M) features, else a (C, C) covariance that is given.
"""

import triton
import triton.language as tl

from ...triton_device.features import aligned, centred_tile, first_position, statistics, widen
from ...triton_device.products import (
    accumulate,
    accumulated,
    direction,
    inverse_root,
    multiply,
    multiply_add,
    multiply_tangent,
    span_of,
    split,
)
from ...triton_device.triangle import store_symmetric, symmetric_tile


@triton.jit
def normalised_covariance(
    x,
    shift,
    offset,
    scale,
    C,
    M,
    stride_c,
    stride_m,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PLANES: tl.constexpr,
):
    """A = (scale (x - mu)) (scale (x - mu))^T, (BLOCK_C, BLOCK_C)."""
    rows = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        tile = centred_tile(x, rows, columns, shift, offset, C, M, stride_c, stride_m) * scale
        high, low = split(tile)
        total = accumulate(high, low, tl.trans(high), tl.trans(low), total, PLANES)
    return accumulated(total, PLANES)


@triton.jit
def normalised_matrix(matrix, C, stride_row, stride_column, BLOCK_C: tl.constexpr):
    """A and the trace of a given covariance."""
    rows = tl.arange(0, BLOCK_C)
    diagonal = tl.load(matrix + rows * (stride_row + stride_column), mask=rows < C, other=0.0).to(tl.float32)
    trace = tl.sum(diagonal)
    a = symmetric_tile(matrix, rows, rows, C, stride_row, stride_column, False) * 0.5
    return tl.div_rn(a, tl.where(trace == 0, float("inf"), trace)), trace


@triton.jit
def root_of(a, n_iter, PLANES: tl.constexpr):
    """Y_N of a matrix A with trace 1."""
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
    """Y_N of A, and its derivative in the direction ``d_a``."""
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
def forward_kernel(
    source,
    pooled,
    offset,
    trace,
    C,
    M,
    n_iter,
    stride_b,
    stride_0,
    stride_1,
    FEATURES: tl.constexpr,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_0, stride_1 = widen(aligned(stride_0, ALIGN), WIDE), widen(stride_1, WIDE)
    source += sample * stride_b
    rows = tl.arange(0, BLOCK_C)
    if FEATURES:
        shift, mean, squares = statistics(source, rows, C, M, stride_0, stride_1, BLOCK_M)
        tl.store(offset + sample * C + rows, mean, mask=rows < C)
        total = tl.sum(squares)
        t = total / M
        a = normalised_covariance(
            source, shift, mean, inverse_root(total), C, M, stride_0, stride_1, BLOCK_C, BLOCK_M, PLANES
        )
    else:
        a, t = normalised_matrix(source, C, stride_0, stride_1, BLOCK_C)
    tl.store(trace + sample, t)
    y = root_of(a, n_iter, PLANES) * tl.sqrt_rn(t)
    size = C * (C + 1) // 2 if TRIU else C * C
    store_symmetric(pooled + sample * size, y, rows, rows, C, TRIU)


@triton.jit(do_not_specialize=["M", "n_iter"])
def backward_kernel(
    grad,
    source,
    offset,
    trace,
    grad_source,
    C,
    M,
    n_iter,
    stride_gb,
    stride_g0,
    stride_g1,
    stride_b,
    stride_0,
    stride_1,
    stride_ob,
    stride_o0,
    stride_o1,
    FEATURES: tl.constexpr,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_0, stride_1 = widen(aligned(stride_0, ALIGN), WIDE), widen(stride_1, WIDE)
    stride_ob, stride_o0 = aligned(stride_ob, ALIGN), widen(aligned(stride_o0, ALIGN), WIDE)
    stride_o1 = widen(stride_o1, WIDE)
    stride_g0, stride_g1 = widen(stride_g0, WIDE), widen(stride_g1, WIDE)
    source += sample * stride_b
    grad_source += sample * stride_ob
    rows = tl.arange(0, BLOCK_C)
    t = tl.load(trace + sample)
    if FEATURES:
        shift = first_position(source, rows, C, stride_0)
        mean = tl.load(offset + sample * C + rows, mask=rows < C, other=0.0)
        scale = inverse_root(t * M)
        a = normalised_covariance(source, shift, mean, scale, C, M, stride_0, stride_1, BLOCK_C, BLOCK_M, PLANES)
    else:
        a, _ = normalised_matrix(source, C, stride_0, stride_1, BLOCK_C)
    twice_g = symmetric_tile(grad + sample * stride_gb, rows, rows, C, stride_g0, stride_g1, TRIU)
    largest = tl.max(tl.abs(twice_g))
    span = span_of(C, n_iter)
    y, d = root_and_tangent(a, direction(twice_g, largest, span), n_iter, PLANES)
    # Read a second time: kept, it would take registers through the whole iteration.
    twice_g = symmetric_tile(grad + sample * stride_gb, rows, rows, C, stride_g0, stride_g1, TRIU)
    g = direction(twice_g, largest, span)
    shift_of_d = tl.sum(0.5 * g * y - d * a)
    d = tl.where(rows[:, None] == rows[None, :], d + shift_of_d, d)
    if FEATURES:
        high, low = split(d)
        factor = span * largest / tl.sqrt_rn(M * 1.0)
        for start in range(0, M, BLOCK_M):
            columns = start + tl.arange(0, BLOCK_M)
            tile = centred_tile(source, rows, columns, shift, mean, C, M, stride_0, stride_1) * scale
            tile_high, tile_low = split(tile)
            gradient = multiply_add(high, low, tile_high, tile_low, tl.zeros((BLOCK_C, BLOCK_M), tl.float32), 2)
            inside = (rows[:, None] < C) & (columns[None, :] < M)
            pointers = grad_source + rows[:, None] * stride_o0 + columns[None, :] * stride_o1
            tl.store(pointers, (gradient * factor).to(grad_source.dtype.element_ty), mask=inside)
    else:
        store_symmetric(grad_source, d * (0.5 * span * largest * inverse_root(t)), rows, rows, C, False)
