"""One launch for a large batch, on the side of the positions; see ``..persistent`` for that of the channels."""

import triton
import triton.language as tl

from ....triton_device.features import sample_of
from ....triton_device.products import direction, inverse_root
from ....triton_device.tiles import TANGENT, A, V, block_of, slab_of, store_tile
from ....triton_device.triangle import upper_tile
from ..persistent import iterate, largest_upstream, store_centres
from .panels import (
    derivative_tile,
    factor_tile,
    gradient_tile,
    gram_tile,
    panel_of,
    pooled_tile,
    product_tile,
    store_gram,
    upstream_tile,
)


@triton.jit
def floats_of(slab, matrix, rows, columns, P: tl.constexpr):
    """Find a tile of float32 elements where the slab has the planes of a matrix, which take as many bytes."""
    memory = (slab + matrix * (2 * P * P)).to(tl.pointer_type(tl.float32), bitcast=True)
    return memory + rows[:, None] * P + columns[None, :]


@triton.jit
def store_direction(
    slab,
    panel,
    x,
    centre,
    scale,
    TILES: tl.constexpr,
    P: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store S, over its largest magnitude and M, as the tangent of K; return the largest magnitude.

    It is divided before it is split: elements far below 1 would lose digits in float16.
    """
    largest = 0.0
    for tile in range(TILES):
        i, j = upper_tile(tile)
        rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
        s = gram_tile(x, centre, scale, panel, rows, columns, 0, x.C, P, PLANES, BLOCK, BLOCK_M)
        largest = tl.maximum(largest, tl.max(tl.abs(s)))
        tl.store(floats_of(slab, V + TANGENT, rows, columns, P), s)
    tl.debug_barrier()
    for tile in range(TILES):
        i, j = upper_tile(tile)
        rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
        s = direction(tl.load(floats_of(slab, V + TANGENT, rows, columns, P)), largest, x.M * 1.0)
        store_tile(slab, A + TANGENT, s, rows, columns, i != j, P, PLANES)
    return largest


@triton.jit(do_not_specialize=["B", "M", "n_iter"])
def isqrt_pool_positions_persistent_forward_kernel(
    source,
    pooled,
    centre,
    trace,
    slabs,
    panels,
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
    program = tl.program_id(0).to(tl.int64)
    slab, panel = slab_of(slabs, program, P, False), panel_of(panels, program, C, P)
    size = C * (C + 1) // 2 if TRIU else C * C
    blocks = tl.cdiv(C, BLOCK)
    for index in range(tl.program_id(0), B, tl.num_programs(0)):
        sample = tl.cast(index, tl.int64)
        x, own_centre = sample_of(source, sample, C, M, WIDE, ALIGN), centre + sample * C
        total = store_centres(x, own_centre, blocks, BLOCK, BLOCK_M)
        t = total / x.M
        scale = inverse_root(t * x.M)  # which the backward pass can make again
        tl.debug_barrier()
        tl.store(trace + sample, t)
        for tile in range(TILES):
            i, j = upper_tile(tile)
            rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
            k = gram_tile(x, own_centre, scale, None, rows, columns, 0, C, P, PLANES, BLOCK, BLOCK_M)
            store_gram(slab, k, rows, columns, i != j, x.M, t, P, PLANES)
        tl.debug_barrier()
        iterate(slab, n_iter, TILES, P, True, False, PLANES, BLOCK, BLOCK_K)
        for tile in range(TILES):
            factor_tile(slab, tile, n_iter, P, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        for job in range(blocks * BLOCKS):
            rows, columns = block_of(job // BLOCKS, BLOCK), block_of(job % BLOCKS, BLOCK)
            product_tile(slab, x, own_centre, scale, n_iter, panel, rows, columns, P, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        out = pooled + sample * size
        for tile in range(blocks * (blocks + 1) // 2):
            pooled_tile(panel, x, own_centre, scale, t, out, tile, TRIU, P, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "M", "n_iter"])
def isqrt_pool_positions_persistent_backward_kernel(
    grad,
    source,
    centre,
    trace,
    grad_source,
    slabs,
    panels,
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
    program = tl.program_id(0).to(tl.int64)
    slab, panel = slab_of(slabs, program, P, True), panel_of(panels, program, C, P)
    blocks = tl.cdiv(C, BLOCK)
    for index in range(tl.program_id(0), B, tl.num_programs(0)):
        sample = tl.cast(index, tl.int64)
        x, own_centre = sample_of(source, sample, C, M, WIDE, ALIGN), centre + sample * C
        t = tl.load(trace + sample)
        scale = inverse_root(t * x.M)
        largest = largest_upstream(grad, sample, C, blocks * (blocks + 1) // 2, WIDE, BLOCK)
        for job in range(blocks * BLOCKS):
            rows, columns = block_of(job // BLOCKS, BLOCK), block_of(job % BLOCKS, BLOCK)
            upstream_tile(grad, sample, x, own_centre, scale, largest, panel, rows, columns, WIDE, P, BLOCK, BLOCK_M)
        for tile in range(TILES):
            i, j = upper_tile(tile)
            rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
            k = gram_tile(x, own_centre, scale, None, rows, columns, 0, C, P, PLANES, BLOCK, BLOCK_M)
            store_gram(slab, k, rows, columns, i != j, x.M, t, P, PLANES)
        tl.debug_barrier()
        norm = store_direction(slab, panel, x, own_centre, scale, TILES, P, PLANES, BLOCK, BLOCK_M) * x.M
        tl.debug_barrier()
        iterate(slab, n_iter, TILES, P, True, True, PLANES, BLOCK, BLOCK_K)
        trace_term = 0.0
        for tile in range(TILES):
            trace_term += derivative_tile(slab, tile, n_iter, P, PLANES, BLOCK, BLOCK_K)
        tl.debug_barrier()
        grad_x = sample_of(grad_source, sample, C, M, WIDE, ALIGN)
        factor = largest / tl.sqrt_rn(x.M * 1.0)
        for job in range(blocks * BLOCKS):
            rows, columns = block_of(job // BLOCKS, BLOCK), block_of(job % BLOCKS, BLOCK)
            gradient_tile(
                slab, panel, x, own_centre, scale, n_iter, norm, trace_term, factor, grad_x, rows, columns,
                P, BLOCK, BLOCK_K,
            )  # fmt: skip
        tl.debug_barrier()
