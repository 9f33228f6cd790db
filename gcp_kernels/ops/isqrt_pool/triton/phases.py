"""One launch for each phase: for batches too small to give every multiprocessor a sample of its own.

A program is one tile of one phase of one sample, and each sample has a slab. What a phase sums over tiles it leaves as
parts, in float32, which the programs of a later phase add up in order: no atomics, and the same result in every run.
"""

import triton
import triton.language as tl

from ...triton_device.features import aligned, statistics, widen
from ...triton_device.products import direction, inverse_root, span_of
from ...triton_device.tiles import REAL_MATRICES, TANGENT, A, block_of, covariance_tile, store_tile
from ...triton_device.triangle import store_symmetric, symmetric_tile, upper_tile
from .gradient import derivative_tile, feature_gradient_tile, matrix_gradient_tile
from .iteration import cube_tile, root_tile, square_tile

# Parts that are added up at once.
CHUNK = tl.constexpr(64)


@triton.jit
def sum_of(parts, count):
    """Sum of ``count`` parts."""
    total = 0.0
    for start in range(0, count, CHUNK):
        at = start + tl.arange(0, CHUNK)
        total += tl.sum(tl.load(parts + at, mask=at < count, other=0.0))
    return total


@triton.jit
def largest_of(parts, count):
    """Largest of ``count`` parts, none of which is negative."""
    largest = 0.0
    for start in range(0, count, CHUNK):
        at = start + tl.arange(0, CHUNK)
        largest = tl.maximum(largest, tl.max(tl.load(parts + at, mask=at < count, other=0.0)))
    return largest


@triton.jit
def program_of(jobs):
    """Sample (64-bit) and job of this program, of ``jobs`` per sample."""
    program = tl.program_id(0)
    return (program // jobs).to(tl.int64), program % jobs


@triton.jit
def slab_of(slabs, sample, P: tl.constexpr, TANGENTS: tl.constexpr):
    """The slab of a sample."""
    matrices = 2 * REAL_MATRICES if TANGENTS else REAL_MATRICES
    return slabs + sample * (matrices * 2 * P * P)


@triton.jit(do_not_specialize=["M"])
def statistics_kernel(
    x,
    offset,
    squares,
    C,
    M,
    stride_b,
    stride_c,
    stride_m,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Offsets of a block of channels, and their part of the sum of squared deviations. Grid: B x blocks."""
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_c, stride_m = widen(aligned(stride_c, ALIGN), WIDE), widen(stride_m, WIDE)
    blocks = tl.cdiv(C, BLOCK_C)
    sample, block = program_of(blocks)
    rows = block_of(block, BLOCK_C)
    _, mean, deviations = statistics(x + sample * stride_b, rows, C, M, stride_c, stride_m, BLOCK_M)
    tl.store(offset + sample * C + rows, mean, mask=rows < C)
    tl.store(squares + sample * blocks + block, tl.sum(deviations))


@triton.jit(do_not_specialize=["M", "count"])
def trace_kernel(
    source,
    parts,
    trace,
    C,
    M,
    count,
    stride_b,
    stride_0,
    stride_1,
    FEATURES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Trace of the covariance, from parts of the sum of squares or from the diagonal that is given. Grid: B."""
    sample = tl.program_id(0).to(tl.int64)
    if FEATURES:
        t = sum_of(parts + sample * count, count) / M
    else:
        stride_0, stride_1 = widen(stride_0, WIDE), widen(stride_1, WIDE)
        t = 0.0
        for start in range(0, C, BLOCK):
            rows = start + tl.arange(0, BLOCK)
            at = sample * stride_b + rows * (stride_0 + stride_1)
            t += tl.sum(tl.load(source + at, mask=rows < C, other=0.0).to(tl.float32))
    tl.store(trace + sample, t)


@triton.jit(do_not_specialize=["M", "span", "splits"])
def covariance_kernel(
    x,
    offset,
    trace,
    parts,
    C,
    M,
    span,
    splits,
    stride_b,
    stride_c,
    stride_m,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Part of a tile of A, from ``span`` positions. Grid: B x tiles x splits."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_c, stride_m = widen(aligned(stride_c, ALIGN), WIDE), widen(stride_m, WIDE)
    sample, job = program_of(TILES * splits)
    i, j = upper_tile(job // splits)
    start = (job % splits) * aligned(span, BLOCK_M)  # of which it is a multiple
    scale = inverse_root(tl.load(trace + sample) * M)
    part = covariance_tile(
        x + sample * stride_b,
        offset + sample * C,
        scale,
        block_of(i, BLOCK),
        block_of(j, BLOCK),
        start,
        tl.minimum(start + span, M),
        C,
        M,
        stride_c,
        stride_m,
        PLANES,
        BLOCK,
        BLOCK_M,
    )
    element = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(parts + (sample * TILES * splits + job) * (BLOCK * BLOCK) + element, part)


@triton.jit
def largest_kernel(
    grad,
    parts,
    C,
    stride_gb,
    stride_g0,
    stride_g1,
    TRIU: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Largest magnitude of a tile of G + G^T. Grid: B x tiles."""
    stride_g0, stride_g1 = widen(stride_g0, WIDE), widen(stride_g1, WIDE)
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, tile = program_of(TILES)
    i, j = upper_tile(tile)
    g = grad + sample * stride_gb
    twice_g = symmetric_tile(g, block_of(i, BLOCK), block_of(j, BLOCK), C, stride_g0, stride_g1, TRIU)
    tl.store(parts + sample * TILES + tile, tl.max(tl.abs(twice_g)))


@triton.jit(do_not_specialize=["n_iter", "splits"])
def start_kernel(
    source,
    parts,
    trace,
    grad,
    largest,
    slabs,
    C,
    n_iter,
    splits,
    stride_b,
    stride_0,
    stride_1,
    stride_gb,
    stride_g0,
    stride_g1,
    FEATURES: tl.constexpr,
    TANGENTS: tl.constexpr,
    TRIU: tl.constexpr,
    PLANES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tile of A, and of its tangent, into the slab. Grid: B x tiles."""
    stride_0, stride_1 = widen(stride_0, WIDE), widen(stride_1, WIDE)
    stride_g0, stride_g1 = widen(stride_g0, WIDE), widen(stride_g1, WIDE)
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(TILES)
    slab = slab_of(slabs, sample, P, TANGENTS)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    if FEATURES:
        element = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        a = tl.zeros((BLOCK, BLOCK), tl.float32)
        for split in range(splits):
            a += tl.load(parts + ((sample * TILES + tile) * splits + split) * (BLOCK * BLOCK) + element)
    else:
        t = tl.load(trace + sample)
        a = symmetric_tile(source + sample * stride_b, rows, columns, C, stride_0, stride_1, False) * 0.5
        a = tl.div_rn(a, tl.where(t == 0, float("inf"), t))
    store_tile(slab, A, a, rows, columns, i != j, P, PLANES)
    if TANGENTS:
        most = largest_of(largest + sample * TILES, TILES)
        twice_g = symmetric_tile(grad + sample * stride_gb, rows, columns, C, stride_g0, stride_g1, TRIU)
        store_tile(slab, A + TANGENT, direction(twice_g, most, span_of(C, n_iter)), rows, columns, i != j, P, PLANES)


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
    """The first phase of a step. Grid: B x tiles in step 0, B x 2 tiles in later ones."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, job = program_of(tl.where(step == 0, TILES, 2 * TILES))
    slab = slab_of(slabs, sample, BLOCKS * BLOCK, TANGENTS)
    square_tile(slab, step, job, TILES, BLOCKS * BLOCK, TANGENTS, PLANES, BLOCK, BLOCK_K)


@triton.jit(do_not_specialize=["step"])
def cube_kernel(
    slabs,
    step,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The second phase of a step. Grid: B x tiles."""
    sample, tile = program_of(BLOCKS * (BLOCKS + 1) // 2)
    slab = slab_of(slabs, sample, BLOCKS * BLOCK, TANGENTS)
    cube_tile(slab, step, tile, BLOCKS * BLOCK, TANGENTS, PLANES, BLOCK, BLOCK_K)


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
    """A tile of the result. Grid: B x tiles."""
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(BLOCKS * (BLOCKS + 1) // 2)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    slab = slab_of(slabs, sample, P, False)
    root, _ = root_tile(slab, n_iter, rows, columns, P, False, PLANES, BLOCK, BLOCK_K)
    size = C * (C + 1) // 2 if TRIU else C * C
    root *= tl.sqrt_rn(tl.load(trace + sample))
    store_symmetric(pooled + sample * size, root, rows, columns, C, TRIU)


@triton.jit(do_not_specialize=["n_iter"])
def derivative_kernel(
    slabs,
    diagonals,
    n_iter,
    PLANES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of L, and its part of the diagonal term. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    sample, tile = program_of(TILES)
    slab = slab_of(slabs, sample, BLOCKS * BLOCK, True)
    part = derivative_tile(slab, tile, n_iter, BLOCKS * BLOCK, PLANES, BLOCK, BLOCK_K)
    tl.store(diagonals + sample * TILES + tile, part)


@triton.jit(do_not_specialize=["M", "n_iter"])
def feature_gradient_kernel(
    slabs,
    x,
    offset,
    trace,
    largest,
    diagonals,
    grad_x,
    C,
    M,
    n_iter,
    stride_b,
    stride_c,
    stride_m,
    stride_ob,
    stride_oc,
    stride_om,
    WIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """A tile of the gradient of the features. Grid: B x blocks x strips of BLOCK_M positions."""
    M, stride_b = aligned(M, ALIGN), aligned(stride_b, ALIGN)
    stride_c, stride_m = widen(aligned(stride_c, ALIGN), WIDE), widen(stride_m, WIDE)
    stride_ob, stride_oc = aligned(stride_ob, ALIGN), widen(aligned(stride_oc, ALIGN), WIDE)
    stride_om = widen(stride_om, WIDE)
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    strips = tl.cdiv(M, BLOCK_M)
    sample, job = program_of(BLOCKS * strips)
    diagonal = sum_of(diagonals + sample * TILES, TILES)
    factor = span_of(C, n_iter) * largest_of(largest + sample * TILES, TILES) / tl.sqrt_rn(M * 1.0)
    scale = inverse_root(tl.load(trace + sample) * M)
    feature_gradient_tile(
        slab_of(slabs, sample, BLOCKS * BLOCK, True),
        x + sample * stride_b,
        offset + sample * C,
        grad_x + sample * stride_ob,
        diagonal,
        scale,
        factor,
        block_of(job // strips, BLOCK),
        block_of(job % strips, BLOCK_M),
        C,
        M,
        stride_c,
        stride_m,
        stride_oc,
        stride_om,
        BLOCKS * BLOCK,
        BLOCK,
        BLOCK_K,
        BLOCK_M,
    )


@triton.jit(do_not_specialize=["n_iter"])
def matrix_gradient_kernel(
    slabs, trace, largest, diagonals, grad_cov, C, n_iter, BLOCKS: tl.constexpr, BLOCK: tl.constexpr
):
    """A tile of the gradient of a given matrix. Grid: B x tiles."""
    TILES: tl.constexpr = BLOCKS * (BLOCKS + 1) // 2
    P: tl.constexpr = BLOCKS * BLOCK
    sample, tile = program_of(TILES)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    diagonal = sum_of(diagonals + sample * TILES, TILES)
    most = largest_of(largest + sample * TILES, TILES)
    factor = 0.5 * span_of(C, n_iter) * most * inverse_root(tl.load(trace + sample))
    gradient = matrix_gradient_tile(slab_of(slabs, sample, P, True), diagonal, rows, columns, P) * factor
    store_symmetric(grad_cov + sample * C * C, gradient, rows, columns, C, False)
