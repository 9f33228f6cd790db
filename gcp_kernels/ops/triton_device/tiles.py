"""Tiles of one sample's working matrices, which lie in a slab of global memory and pass through the L2 cache.

A slab holds matrices of (P, P) elements, P being C rounded up to whole tiles, each as a high and a low float16 plane
(see ``products``). Only tiles on or above the diagonal are computed; both they and their mirror images are stored, so
that operands are always read in rows. With tangents, the tangent of matrix m is matrix m + TANGENT.

In "fast" precision products read high planes alone, but what is added to them keeps both: of an iterate
3/2 Y - 1/2 Y W only the product is rounded. That costs little memory traffic and is 3 to 10 times more accurate.
"""

import triton
import triton.language as tl

from . import slab as sizes
from .features import centred_tile, first_position, load_centre
from .products import UNLIFT, accumulate, accumulated, split

# Matrices of a slab. W_k, Y_k and one that is free take turns in the others, see ``iteration``.
A = tl.constexpr(0)
V = tl.constexpr(1)
MATRICES = tl.constexpr(sizes.MATRICES)
TANGENT = tl.constexpr(sizes.MATRICES)


@triton.jit
def slab_of(slabs, index, P: tl.constexpr, TANGENTS: tl.constexpr):
    """Find the ``index``-th slab."""
    matrices = 2 * MATRICES if TANGENTS else MATRICES
    return slabs + index * (matrices * 2 * P * P)


@triton.jit
def block_of(index, BLOCK: tl.constexpr):
    """List the rows, or columns, of the ``index``-th block."""
    return index * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def load_tile(slab, matrix, rows, columns, P: tl.constexpr):
    """Load a tile on or above the diagonal, float32."""
    at = slab + matrix * (2 * P * P) + rows[:, None] * P + columns[None, :]
    return (tl.load(at).to(tl.float32) + tl.load(at + P * P).to(tl.float32)) * UNLIFT


@triton.jit
def store_tile(slab, matrix, tile, rows, columns, mirrored, P: tl.constexpr, PLANES: tl.constexpr):
    """Store a tile and, if not on the diagonal (``mirrored``), what products with PLANES planes read of its mirror."""
    high_plane = slab + matrix * (2 * P * P)
    low_plane = high_plane + P * P
    at = rows[:, None] * P + columns[None, :]
    at_mirror = columns[:, None] * P + rows[None, :]
    high, low = split(tile)
    tl.store(high_plane + at, high)
    tl.store(low_plane + at, low)
    if mirrored:
        tl.store(high_plane + at_mirror, tl.trans(high))
        if PLANES == 2:
            tl.store(low_plane + at_mirror, tl.trans(low))


@triton.jit
def multiply_tiles(
    slab,
    left,
    right,
    rows,
    columns,
    P: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of L R and, with TANGENTS, of dL R + L dR (else of no meaning); L is ``left``, R is ``right``."""
    left_tile = slab + left * (2 * P * P) + rows[:, None] * P + tl.arange(0, BLOCK_K)[None, :]
    right_tile = slab + right * (2 * P * P) + tl.arange(0, BLOCK_K)[:, None] * P + columns[None, :]
    low = P * P
    tangent = TANGENT * 2 * P * P
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    d_total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, P, BLOCK_K):
        at_left, at_right = left_tile + k, right_tile + k * P
        left_high, right_high = tl.load(at_left), tl.load(at_right)
        left_low, right_low = left_high, right_high
        if PLANES == 2:
            left_low, right_low = tl.load(at_left + low), tl.load(at_right + low)
        total = accumulate(left_high, left_low, right_high, right_low, total, PLANES)
        if TANGENTS:
            d_left_high, d_right_high = tl.load(at_left + tangent), tl.load(at_right + tangent)
            d_left_low, d_right_low = d_left_high, d_right_high
            if PLANES == 2:
                d_left_low = tl.load(at_left + tangent + low)
                d_right_low = tl.load(at_right + tangent + low)
            d_total = accumulate(d_left_high, d_left_low, right_high, right_low, d_total, PLANES)
            d_total = accumulate(left_high, left_low, d_right_high, d_right_low, d_total, PLANES)
    return accumulated(total, PLANES), accumulated(d_total, PLANES)


@triton.jit
def covariance_tile(
    x,
    centre,
    scale,
    rows,
    columns,
    start,
    stop,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute a tile of the sum over positions ``start`` to ``stop`` of (scale (x - mu)) (scale (x - mu))^T."""
    row_shift, column_shift = first_position(x, rows), first_position(x, columns)
    row_centre, column_centre = load_centre(centre, x, rows), load_centre(centre, x, columns)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for m in range(start, stop, BLOCK_M):
        positions = m + tl.arange(0, BLOCK_M)
        left = centred_tile(x, rows, positions, row_shift, row_centre) * scale
        right = centred_tile(x, columns, positions, column_shift, column_centre) * scale
        left_high, left_low = split(left)
        right_high, right_low = split(right)
        total = accumulate(left_high, left_low, tl.trans(right_high), tl.trans(right_low), total, PLANES)
    return accumulated(total, PLANES)
