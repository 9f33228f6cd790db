"""One launch for each phase, on the side of the positions; what both sides have is in ``..phases``.

Each sample has a slab and a panel of its own.
"""

import triton
import triton.language as tl

from ....triton_device.features import aligned, sample_of
from ....triton_device.products import direction, inverse_root
from ....triton_device.tiles import TANGENT, A, block_of, slab_of, store_tile
from ....triton_device.triangle import upper_tile
from ..phases import largest_of, program_of, sum_of, tile_of
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


@triton.jit(do_not_specialize=["M"])
def upstream_kernel(
    grad,
    x,
    centre,
    trace,
    largest,
    panels,
    C,
    M,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute a tile of H. Grid: B x blocks of channels x blocks of positions."""
    P: tl.constexpr = BLOCKS * BLOCK
    blocks = tl.cdiv(C, BLOCK)
    sample, job = program_of(blocks * BLOCKS)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    upstream_tile(
        grad,
        sample,
        own,
        centre + sample * C,
        inverse_root(tl.load(trace + sample) * own.M),
        largest_of(largest + sample * (blocks * (blocks + 1) // 2), blocks * (blocks + 1) // 2),
        panel_of(panels, sample, C, P),
        block_of(job // BLOCKS, BLOCK),
        block_of(job % BLOCKS, BLOCK),
        WIDE,
        P,
        BLOCK,
        BLOCK_M,
    )


@triton.jit(do_not_specialize=["M", "chunk", "splits"])
def gram_kernel(
    x,
    centre,
    trace,
    panels,
    parts,
    C,
    M,
    chunk,
    splits,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute part of a tile of K, or with panels of S, from ``chunk`` channels. Grid: B x tiles x splits."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, job = program_of(TILES * splits)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    panel = None if panels is None else panel_of(panels, sample, C, P)
    i, j = upper_tile(job // splits)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    start = (job % splits) * aligned(chunk, BLOCK_M)  # of which it is a multiple
    stop = tl.minimum(start + chunk, C)
    scale = inverse_root(tl.load(trace + sample) * own.M)
    part = gram_tile(own, centre + sample * C, scale, panel, rows, columns, start, stop, P, PLANES, BLOCK, BLOCK_M)
    element = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(parts + (sample * TILES * splits + job) * (BLOCK * BLOCK) + element, part)


@triton.jit(do_not_specialize=["splits"])
def largest_part_kernel(parts, largest, splits, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """Find the largest magnitude of a tile of S. Grid: B x tiles."""
    sample, tile = program_of(TILES)
    s = tile_of(parts + (sample * TILES + tile) * splits * (BLOCK * BLOCK), splits, BLOCK)
    tl.store(largest + sample * TILES + tile, tl.max(tl.abs(s)))


@triton.jit(do_not_specialize=["M", "splits"])
def gram_start_kernel(
    parts,
    trace,
    s_parts,
    s_largest,
    slabs,
    M,
    splits,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store a tile of K, and of S as its tangent if there are parts of it. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(TILES)
    slab = slab_of(slabs, sample, P, s_parts is not None)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    first = (sample * TILES + tile) * splits * (BLOCK * BLOCK)
    k = tile_of(parts + first, splits, BLOCK)
    store_gram(slab, k, rows, columns, i != j, M, tl.load(trace + sample), P, PLANES)
    if s_parts is not None:
        s = direction(tile_of(s_parts + first, splits, BLOCK), largest_of(s_largest + sample * TILES, TILES), M * 1.0)
        store_tile(slab, A + TANGENT, s, rows, columns, i != j, P, PLANES)


@triton.jit(do_not_specialize=["n_iter"])
def factor_kernel(
    slabs,
    n_iter,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of q(K). Grid: B x tiles."""
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(BLOCKS * (BLOCKS + 1) // 2)
    factor_tile(slab_of(slabs, sample, P, False), tile, n_iter, P, PLANES, BLOCK, BLOCK_K)


@triton.jit(do_not_specialize=["M", "n_iter"])
def product_kernel(
    slabs,
    x,
    centre,
    trace,
    panels,
    C,
    M,
    n_iter,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of T. Grid: B x blocks of channels x blocks of positions."""
    P: tl.constexpr = BLOCKS * BLOCK
    sample, job = program_of(tl.cdiv(C, BLOCK) * BLOCKS)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    scale = inverse_root(tl.load(trace + sample) * own.M)
    slab, panel = slab_of(slabs, sample, P, False), panel_of(panels, sample, C, P)
    rows, columns = block_of(job // BLOCKS, BLOCK), block_of(job % BLOCKS, BLOCK)
    product_tile(slab, own, centre + sample * C, scale, n_iter, panel, rows, columns, P, PLANES, BLOCK, BLOCK_K)


@triton.jit(do_not_specialize=["M"])
def pooled_kernel(
    panels,
    x,
    centre,
    trace,
    pooled,
    C,
    M,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of the result. Grid: B x tiles of channels."""
    P: tl.constexpr = BLOCKS * BLOCK
    blocks = tl.cdiv(C, BLOCK)
    sample, tile = program_of(blocks * (blocks + 1) // 2)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    t = tl.load(trace + sample)
    out = pooled + sample * (C * (C + 1) // 2 if TRIU else C * C)
    panel, scale = panel_of(panels, sample, C, P), inverse_root(t * own.M)
    pooled_tile(panel, own, centre + sample * C, scale, t, out, tile, TRIU, P, PLANES, BLOCK, BLOCK_K)


@triton.jit(do_not_specialize=["n_iter"])
def factor_derivative_kernel(
    slabs,
    trace_terms,
    n_iter,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of q(K) and of L, and its part of the trace term. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(TILES)
    part = derivative_tile(slab_of(slabs, sample, P, True), tile, n_iter, P, PLANES, BLOCK, BLOCK_K)
    tl.store(trace_terms + sample * TILES + tile, part)


@triton.jit(do_not_specialize=["M", "n_iter"])
def gradient_kernel(
    slabs,
    panels,
    x,
    centre,
    trace,
    largest,
    s_largest,
    trace_terms,
    grad_x,
    C,
    M,
    n_iter,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store a tile of the gradient. Grid: B x blocks of channels x blocks of positions."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    blocks = tl.cdiv(C, BLOCK)
    sample, job = program_of(blocks * BLOCKS)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    most = largest_of(largest + sample * (blocks * (blocks + 1) // 2), blocks * (blocks + 1) // 2)
    gradient_tile(
        slab_of(slabs, sample, P, True),
        panel_of(panels, sample, C, P),
        own,
        centre + sample * C,
        inverse_root(tl.load(trace + sample) * own.M),
        n_iter,
        largest_of(s_largest + sample * TILES, TILES) * own.M,
        sum_of(trace_terms + sample * TILES, TILES),
        most / tl.sqrt_rn(own.M * 1.0),
        sample_of(grad_x, sample, C, M, WIDE, ALIGN),
        block_of(job // BLOCKS, BLOCK),
        block_of(job % BLOCKS, BLOCK),
        P,
        BLOCK,
        BLOCK_K,
    )
