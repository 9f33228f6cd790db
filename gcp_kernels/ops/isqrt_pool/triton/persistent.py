"""One launch for a large batch: each program takes one sample after another through all phases, in a slab of its own.

Within a sample the phases are separated by block barriers, so no program waits for another.
"""

import triton
import triton.language as tl

from ...triton_device.features import aligned, statistics, widen
from ...triton_device.products import direction, inverse_root, span_of
from ...triton_device.tiles import REAL_MATRICES, TANGENT, A, block_of, covariance_tile, store_tile
from ...triton_device.triangle import store_symmetric, symmetric_tile, upper_tile
from .gradient import derivative_tile, feature_gradient_tile, matrix_gradient_tile
from .iteration import cube_tile, root_tile, square_tile


@triton.jit
def trace_of(matrix, C, stride_0, stride_1, BLOCK: tl.constexpr):
    """Trace of a given matrix."""
    total = 0.0
    for start in range(0, C, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        at = rows * (stride_0 + stride_1)
        total += tl.sum(tl.load(matrix + at, mask=rows < C, other=0.0).to(tl.float32))
    return total


@triton.jit
def store_covariance(
    slab,
    source,
    offset,
    scale,
    trace,
    C,
    M,
    stride_0,
    stride_1,
    TILES: tl.constexpr,
    P: tl.constexpr,
    FEATURES: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """A into the slab, from features (``scale`` x centred) or from a matrix of the given trace."""
    for tile in range(TILES):
        i, j = upper_tile(tile)
        rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
        if FEATURES:
            a = covariance_tile(
                source, offset, scale, rows, columns, 0, M, C, M, stride_0, stride_1, PLANES, BLOCK, BLOCK_M
            )
        else:
            a = symmetric_tile(source, rows, columns, C, stride_0, stride_1, False) * 0.5
            a = tl.div_rn(a, tl.where(trace == 0, float("inf"), trace))
        store_tile(slab, A, a, rows, columns, i != j, P, PLANES)


@triton.jit
def iterate(
    slab,
    n_iter,
    TILES: tl.constexpr,
    P: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """All steps but the last, from A in the slab."""
    for step in range(n_iter - 1):
        for job in range(tl.where(step == 0, TILES, 2 * TILES)):
            square_tile(slab, step, job, TILES, P, TANGENTS, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        for tile in range(TILES):
            cube_tile(slab, step, tile, P, TANGENTS, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "M", "n_iter"])
def forward_kernel(
    source,
    pooled,
    offset,
    trace,
    slabs,
    B,
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
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_0, stride_1 = widen(aligned(stride_0, ALIGN), WIDE), widen(stride_1, WIDE)
    P: tl.constexpr = BLOCKS * BLOCK
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    slab = slabs + tl.program_id(0).to(tl.int64) * (REAL_MATRICES * 2 * P * P)
    size = C * (C + 1) // 2 if TRIU else C * C
    for index in range(tl.program_id(0), B, tl.num_programs(0)):
        sample = tl.cast(index, tl.int64)
        x = source + sample * stride_b
        sample_offset = offset + sample * C
        if FEATURES:
            total = 0.0
            for block in range(BLOCKS):
                rows = block_of(block, BLOCK)
                _, mean, squares = statistics(x, rows, C, M, stride_0, stride_1, BLOCK_M)
                tl.store(sample_offset + rows, mean, mask=rows < C)
                total += tl.sum(squares)
            t, scale = total / M, inverse_root(total)
            tl.debug_barrier()
        else:
            t = trace_of(x, C, stride_0, stride_1, BLOCK)
            scale = t
        tl.store(trace + sample, t)
        store_covariance(
            slab, x, sample_offset, scale, t, C, M, stride_0, stride_1, TILES, P, FEATURES, PLANES, BLOCK, BLOCK_M
        )
        tl.debug_barrier()
        iterate(slab, n_iter, TILES, P, False, PLANES, BLOCK, BLOCK_K)
        for tile in range(TILES):
            i, j = upper_tile(tile)
            rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
            root, _ = root_tile(slab, n_iter, rows, columns, P, False, PLANES, BLOCK, BLOCK_K)
            store_symmetric(pooled + sample * size, root * tl.sqrt_rn(t), rows, columns, C, TRIU)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "M", "n_iter"])
def backward_kernel(
    grad,
    source,
    offset,
    trace,
    grad_source,
    slabs,
    B,
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
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_0, stride_1 = widen(aligned(stride_0, ALIGN), WIDE), widen(stride_1, WIDE)
    stride_ob, stride_o0 = aligned(stride_ob, ALIGN), widen(aligned(stride_o0, ALIGN), WIDE)
    stride_o1 = widen(stride_o1, WIDE)
    stride_g0, stride_g1 = widen(stride_g0, WIDE), widen(stride_g1, WIDE)
    P: tl.constexpr = BLOCKS * BLOCK
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    slab = slabs + tl.program_id(0).to(tl.int64) * (2 * REAL_MATRICES * 2 * P * P)
    for index in range(tl.program_id(0), B, tl.num_programs(0)):
        sample = tl.cast(index, tl.int64)
        x, g = source + sample * stride_b, grad + sample * stride_gb
        out = grad_source + sample * stride_ob
        sample_offset = offset + sample * C
        t = tl.load(trace + sample)
        scale = inverse_root(t * M)
        largest = 0.0
        for tile in range(TILES):
            i, j = upper_tile(tile)
            twice_g = symmetric_tile(g, block_of(i, BLOCK), block_of(j, BLOCK), C, stride_g0, stride_g1, TRIU)
            largest = tl.maximum(largest, tl.max(tl.abs(twice_g)))
        span = span_of(C, n_iter)
        for tile in range(TILES):
            i, j = upper_tile(tile)
            rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
            twice_g = symmetric_tile(g, rows, columns, C, stride_g0, stride_g1, TRIU)
            store_tile(slab, A + TANGENT, direction(twice_g, largest, span), rows, columns, i != j, P, PLANES)
        store_covariance(
            slab, x, sample_offset, scale, t, C, M, stride_0, stride_1, TILES, P, FEATURES, PLANES, BLOCK, BLOCK_M
        )
        tl.debug_barrier()
        iterate(slab, n_iter, TILES, P, True, PLANES, BLOCK, BLOCK_K)
        diagonal = 0.0
        for tile in range(TILES):
            diagonal += derivative_tile(slab, tile, n_iter, P, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        if FEATURES:
            factor = span * largest / tl.sqrt_rn(M * 1.0)
            strips = tl.cdiv(M, BLOCK_M)
            for job in range(BLOCKS * strips):
                rows, positions = block_of(job // strips, BLOCK), block_of(job % strips, BLOCK_M)
                feature_gradient_tile(
                    slab,
                    x,
                    sample_offset,
                    out,
                    diagonal,
                    scale,
                    factor,
                    rows,
                    positions,
                    C,
                    M,
                    stride_0,
                    stride_1,
                    stride_o0,
                    stride_o1,
                    P,
                    BLOCK,
                    BLOCK_K,
                    BLOCK_M,
                )
        else:
            for tile in range(TILES):
                i, j = upper_tile(tile)
                rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
                gradient = matrix_gradient_tile(slab, diagonal, rows, columns, P)
                store_symmetric(out, gradient * (0.5 * span * largest * inverse_root(t)), rows, columns, C, False)
        tl.debug_barrier()
