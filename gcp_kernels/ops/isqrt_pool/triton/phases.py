"""One launch for each phase: for batches too small to give every multiprocessor a sample of its own.

A program is one tile of one phase of one sample, and each sample has a slab. What a phase sums over tiles it leaves as
parts, in float32, which the programs of a later phase add up in order: no atomics, and the same result in every run.
"""

import triton
import triton.language as tl

from ...triton_device.features import aligned, sample_of, statistics
from ...triton_device.products import direction, growth_of, inverse_root
from ...triton_device.tiles import TANGENT, A, block_of, covariance_tile, slab_of, store_tile
from ...triton_device.triangle import normalised_tile, store_symmetric, symmetric_tile, trace_of, upper_tile
from .gradient import derivative_tile, feature_gradient_tile, matrix_gradient_tile
from .iteration import cube_tile, root_tile, square_tile

# Parts that are added up at once.
PARTS = tl.constexpr(64)


@triton.jit
def sum_of(parts, count):
    """Add up ``count`` parts."""
    total = 0.0
    for start in range(0, count, PARTS):
        at = start + tl.arange(0, PARTS)
        total += tl.sum(tl.load(parts + at, mask=at < count, other=0.0))
    return total


@triton.jit
def largest_of(parts, count):
    """Find the largest of ``count`` parts, none of which is negative."""
    largest = 0.0
    for start in range(0, count, PARTS):
        at = start + tl.arange(0, PARTS)
        largest = tl.maximum(largest, tl.max(tl.load(parts + at, mask=at < count, other=0.0)))
    return largest


@triton.jit
def tile_of(parts, count, BLOCK: tl.constexpr):
    """Add up ``count`` parts of a tile."""
    element = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tile = tl.zeros((BLOCK, BLOCK), tl.float32)
    for part in range(count):
        tile += tl.load(parts + part * (BLOCK * BLOCK) + element)
    return tile


@triton.jit
def program_of(jobs):
    """Say which sample (64-bit) and which job of it, of ``jobs``, this program has."""
    program = tl.program_id(0)
    return (program // jobs).to(tl.int64), program % jobs


@triton.jit(do_not_specialize=["M"])
def statistics_kernel(
    x,
    centre,
    squares,
    C,
    M,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Find centres of a block of channels, and their part of the sum of squared deviations. Grid: B x blocks."""
    blocks = tl.cdiv(C, BLOCK_C)
    sample, block = program_of(blocks)
    rows = block_of(block, BLOCK_C)
    _, mean, deviations = statistics(sample_of(x, sample, C, M, WIDE, ALIGN), rows, BLOCK_M)
    tl.store(centre + sample * C + rows, mean, mask=rows < C)
    tl.store(squares + sample * blocks + block, tl.sum(deviations))


@triton.jit(do_not_specialize=["M", "count"])
def trace_kernel(squares, trace, M, count):
    """Find the trace of the covariance from ``count`` parts of the sum of squared deviations. Grid: B."""
    sample = tl.program_id(0).to(tl.int64)
    tl.store(trace + sample, sum_of(squares + sample * count, count) / M)


@triton.jit
def matrix_trace_kernel(matrices, trace, C, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Find the trace of a covariance that is given. Grid: B."""
    sample = tl.program_id(0).to(tl.int64)
    tl.store(trace + sample, trace_of(matrices, sample, C, WIDE, BLOCK))


@triton.jit(do_not_specialize=["M", "chunk", "splits"])
def covariance_kernel(
    x,
    centre,
    trace,
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
    """Compute part of a tile of A, from ``chunk`` positions. Grid: B x tiles x splits."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, job = program_of(TILES * splits)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    i, j = upper_tile(job // splits)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    start = (job % splits) * aligned(chunk, BLOCK_M)  # of which it is a multiple
    stop = tl.minimum(start + chunk, own.M)
    scale = inverse_root(tl.load(trace + sample) * own.M)
    part = covariance_tile(own, centre + sample * C, scale, rows, columns, start, stop, PLANES, BLOCK, BLOCK_M)
    element = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(parts + (sample * TILES * splits + job) * (BLOCK * BLOCK) + element, part)


@triton.jit
def largest_kernel(grad, parts, C, WIDE: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Find the largest magnitude of a tile of G + G^T. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, tile = program_of(TILES)
    i, j = upper_tile(tile)
    twice_g = symmetric_tile(grad, sample, block_of(i, BLOCK), block_of(j, BLOCK), C, WIDE)
    tl.store(parts + sample * TILES + tile, tl.max(tl.abs(twice_g)))


@triton.jit(do_not_specialize=["n_iter", "splits"])
def start_kernel(
    parts,
    matrices,
    trace,
    grad,
    largest,
    slabs,
    C,
    n_iter,
    splits,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store a tile of A, from its parts or from matrices of a trace, and of its tangent. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(TILES)
    slab = slab_of(slabs, sample, P, largest is not None)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    if parts is not None:
        a = tile_of(parts + (sample * TILES + tile) * splits * (BLOCK * BLOCK), splits, BLOCK)
    else:
        a = normalised_tile(matrices, sample, tl.load(trace + sample), rows, columns, C, WIDE)
    store_tile(slab, A, a, rows, columns, i != j, P, PLANES)
    # Asked of what is a tensor: Triton 3.6.0 cannot compare a triangle, which has a None in it, with None.
    if largest is not None:
        most = largest_of(largest + sample * TILES, TILES)
        twice_g = symmetric_tile(grad, sample, rows, columns, C, WIDE)
        store_tile(slab, A + TANGENT, direction(twice_g, most, growth_of(C, n_iter)), rows, columns, i != j, P, PLANES)


@triton.jit(do_not_specialize=["step"])
def square_kernel(
    slabs,
    step,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Take the first phase of a step. Grid: B x tiles in step 0, B x 2 tiles in later ones."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, job = program_of(tl.where(step == 0, TILES, 2 * TILES))
    slab = slab_of(slabs, sample, BLOCKS * BLOCK, TANGENTS)
    square_tile(slab, step, job, TILES, BLOCKS * BLOCK, TANGENTS, PLANES, BLOCK, BLOCK_K)


@triton.jit(do_not_specialize=["step", "n_iter"])
def cube_kernel(
    slabs,
    step,
    n_iter,
    FACTOR: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Take the second phase of a step. Grid: B x tiles."""
    sample, tile = program_of(BLOCKS * (BLOCKS + 1) // 2)
    slab = slab_of(slabs, sample, BLOCKS * BLOCK, TANGENTS)
    cube_tile(slab, step, n_iter, tile, BLOCKS * BLOCK, FACTOR, TANGENTS, PLANES, BLOCK, BLOCK_K)


@triton.jit(do_not_specialize=["n_iter"])
def root_kernel(
    slabs,
    trace,
    pooled,
    C,
    n_iter,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of the result. Grid: B x tiles."""
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(BLOCKS * (BLOCKS + 1) // 2)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    slab = slab_of(slabs, sample, P, False)
    root, _ = root_tile(slab, n_iter, rows, columns, P, False, False, PLANES, BLOCK, BLOCK_K)
    size = C * (C + 1) // 2 if TRIU else C * C
    root *= tl.sqrt_rn(tl.load(trace + sample))
    store_symmetric(pooled + sample * size, root, rows, columns, C, TRIU)


@triton.jit(do_not_specialize=["n_iter"])
def derivative_kernel(
    slabs,
    trace_terms,
    n_iter,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of L, and its part of the trace term. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, tile = program_of(TILES)
    slab = slab_of(slabs, sample, BLOCKS * BLOCK, True)
    part = derivative_tile(slab, tile, n_iter, BLOCKS * BLOCK, PLANES, BLOCK, BLOCK_K)
    tl.store(trace_terms + sample * TILES + tile, part)


@triton.jit(do_not_specialize=["M", "n_iter"])
def feature_gradient_kernel(
    slabs,
    x,
    centre,
    trace,
    largest,
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
    BLOCK_M: tl.constexpr,
):
    """Store a tile of the gradient of the features. Grid: B x blocks x strips of BLOCK_M positions."""
    P: tl.constexpr = BLOCKS * BLOCK
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    strips = tl.cdiv(aligned(M, ALIGN), BLOCK_M)
    sample, job = program_of(BLOCKS * strips)
    own = sample_of(x, sample, C, M, WIDE, ALIGN)
    out = sample_of(grad_x, sample, C, M, WIDE, ALIGN)
    trace_term = sum_of(trace_terms + sample * TILES, TILES)
    factor = growth_of(C, n_iter) * largest_of(largest + sample * TILES, TILES) / tl.sqrt_rn(own.M * 1.0)
    scale = inverse_root(tl.load(trace + sample) * own.M)
    rows, positions = block_of(job // strips, BLOCK), block_of(job % strips, BLOCK_M)
    feature_gradient_tile(
        slab_of(slabs, sample, P, True),
        own,
        centre + sample * C,
        out,
        trace_term,
        scale,
        factor,
        rows,
        positions,
        P,
        BLOCK,
        BLOCK_K,
        BLOCK_M,
    )


@triton.jit(do_not_specialize=["n_iter"])
def matrix_gradient_kernel(
    slabs, trace, largest, trace_terms, grad_cov, C, n_iter, BLOCKS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store a tile of the gradient of a given matrix. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(TILES)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    trace_term = sum_of(trace_terms + sample * TILES, TILES)
    most = largest_of(largest + sample * TILES, TILES)
    factor = 0.5 * growth_of(C, n_iter) * most * inverse_root(tl.load(trace + sample))
    gradient = matrix_gradient_tile(slab_of(slabs, sample, P, True), trace_term, rows, columns, P) * factor
    store_symmetric(grad_cov + sample * C * C, gradient, rows, columns, C, False)
