"""One launch for a large batch: each program takes one sample after another through all phases, in a slab of its own.

Within a sample the phases are separated by block barriers, so no program waits for another.
"""

import triton
import triton.language as tl

from ...triton_device.features import sample_of, statistics
from ...triton_device.products import direction, growth_of, inverse_root
from ...triton_device.tiles import TANGENT, A, block_of, covariance_tile, slab_of, store_tile
from ...triton_device.triangle import normalised_tile, store_symmetric, symmetric_tile, trace_of, upper_tile
from .gradient import derivative_tile, feature_gradient_tile, matrix_gradient_tile
from .iteration import cube_tile, root_tile, square_tile


@triton.jit
def store_centres(x, centre, blocks, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr):
    """Store the centres of all channels, ``blocks`` of BLOCK; return the sum of squared deviations from the means."""
    total = 0.0
    for block in range(blocks):
        rows = block_of(block, BLOCK)
        _, mean, squares = statistics(x, rows, BLOCK_M)
        tl.store(centre + rows, mean, mask=rows < x.C)
        total += tl.sum(squares)
    return total


@triton.jit
def largest_upstream(grad, sample, C, tiles, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Find the largest magnitude of G + G^T, of ``tiles`` tiles on or above the diagonal."""
    largest = 0.0
    for tile in range(tiles):
        i, j = upper_tile(tile)
        twice_g = symmetric_tile(grad, sample, block_of(i, BLOCK), block_of(j, BLOCK), C, WIDE)
        largest = tl.maximum(largest, tl.max(tl.abs(twice_g)))
    return largest


@triton.jit
def store_covariance(
    slab,
    x,
    centre,
    scale,
    TILES: tl.constexpr,
    P: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store A in the slab, of features times ``scale``."""
    for tile in range(TILES):
        i, j = upper_tile(tile)
        rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
        a = covariance_tile(x, centre, scale, rows, columns, 0, x.M, PLANES, BLOCK, BLOCK_M)
        store_tile(slab, A, a, rows, columns, i != j, P, PLANES)


@triton.jit
def store_matrix(
    slab,
    matrices,
    sample,
    trace,
    C,
    WIDE: tl.constexpr,
    TILES: tl.constexpr,
    P: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store A in the slab, of a matrix that is given."""
    for tile in range(TILES):
        i, j = upper_tile(tile)
        rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
        a = normalised_tile(matrices, sample, trace, rows, columns, C, WIDE)
        store_tile(slab, A, a, rows, columns, i != j, P, PLANES)


@triton.jit
def iterate(
    slab,
    n_iter,
    TILES: tl.constexpr,
    P: tl.constexpr,
    FACTOR: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Take all steps but the last, from A in the slab."""
    for step in range(n_iter - 1):
        for job in range(tl.where(step == 0, TILES, 2 * TILES)):
            square_tile(slab, step, job, TILES, P, TANGENTS, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        for tile in range(TILES):
            cube_tile(slab, step, n_iter, tile, P, FACTOR, TANGENTS, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "M", "n_iter"])
def isqrt_pool_persistent_forward_kernel(
    source,
    pooled,
    centre,
    trace,
    slabs,
    B,
    C,
    M,
    n_iter,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Pool every sample whose turn it is. Grid: as many as there are slabs."""
    P: tl.constexpr = BLOCKS * BLOCK
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    slab = slab_of(slabs, tl.program_id(0).to(tl.int64), P, False)
    size = C * (C + 1) // 2 if TRIU else C * C
    for index in range(tl.program_id(0), B, tl.num_programs(0)):
        sample = tl.cast(index, tl.int64)
        if centre is not None:
            x, own_centre = sample_of(source, sample, C, M, WIDE, ALIGN), centre + sample * C
            total = store_centres(x, own_centre, BLOCKS, BLOCK, BLOCK_M)
            t, scale = total / x.M, inverse_root(total)
            tl.debug_barrier()
            tl.store(trace + sample, t)
            store_covariance(slab, x, own_centre, scale, TILES, P, PLANES, BLOCK, BLOCK_M)
        else:
            t = trace_of(source, sample, C, WIDE, BLOCK)
            tl.store(trace + sample, t)
            store_matrix(slab, source, sample, t, C, WIDE, TILES, P, PLANES, BLOCK)
        tl.debug_barrier()
        iterate(slab, n_iter, TILES, P, False, False, PLANES, BLOCK, BLOCK_K)
        for tile in range(TILES):
            i, j = upper_tile(tile)
            rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
            root, _ = root_tile(slab, n_iter, rows, columns, P, False, False, PLANES, BLOCK, BLOCK_K)
            store_symmetric(pooled + sample * size, root * tl.sqrt_rn(t), rows, columns, C, TRIU)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "M", "n_iter"])
def isqrt_pool_persistent_backward_kernel(
    grad,
    source,
    centre,
    trace,
    grad_source,
    slabs,
    B,
    C,
    M,
    n_iter,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Differentiate the pooling of every sample whose turn it is. Grid: as many as there are slabs."""
    P: tl.constexpr = BLOCKS * BLOCK
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    slab = slab_of(slabs, tl.program_id(0).to(tl.int64), P, True)
    for index in range(tl.program_id(0), B, tl.num_programs(0)):
        sample = tl.cast(index, tl.int64)
        t = tl.load(trace + sample)
        largest = largest_upstream(grad, sample, C, TILES, WIDE, BLOCK)
        growth = growth_of(C, n_iter)
        for tile in range(TILES):
            i, j = upper_tile(tile)
            rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
            twice_g = symmetric_tile(grad, sample, rows, columns, C, WIDE)
            store_tile(slab, A + TANGENT, direction(twice_g, largest, growth), rows, columns, i != j, P, PLANES)
        if centre is not None:
            x, own_centre = sample_of(source, sample, C, M, WIDE, ALIGN), centre + sample * C
            scale = inverse_root(t * x.M)
            store_covariance(slab, x, own_centre, scale, TILES, P, PLANES, BLOCK, BLOCK_M)
        else:
            store_matrix(slab, source, sample, t, C, WIDE, TILES, P, PLANES, BLOCK)
        tl.debug_barrier()
        iterate(slab, n_iter, TILES, P, False, True, PLANES, BLOCK, BLOCK_K)
        trace_term = 0.0
        for tile in range(TILES):
            trace_term += derivative_tile(slab, tile, n_iter, P, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        if centre is not None:
            grad_x = sample_of(grad_source, sample, C, M, WIDE, ALIGN)
            factor = growth * largest / tl.sqrt_rn(x.M * 1.0)
            strips = tl.cdiv(x.M, BLOCK_M)
            for job in range(BLOCKS * strips):
                rows, positions = block_of(job // strips, BLOCK), block_of(job % strips, BLOCK_M)
                feature_gradient_tile(
                    slab, x, own_centre, grad_x, trace_term, scale, factor, rows, positions, P, BLOCK, BLOCK_K, BLOCK_M
                )
        else:
            factor = 0.5 * growth * largest * inverse_root(t)
            for tile in range(TILES):
                i, j = upper_tile(tile)
                rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
                gradient = matrix_gradient_tile(slab, trace_term, rows, columns, P) * factor
                store_symmetric(grad_source + sample * C * C, gradient, rows, columns, C, False)
        tl.debug_barrier()
