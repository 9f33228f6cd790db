"""One step of the Newton-Schulz iteration in a slab, tile by tile, and where its matrices are.

Step k takes W_k and Y_k to W_{k+1} and Y_{k+1} in two phases, between which all tiles must be finished:

    square:  V = W W,                        Y <- 3/2 Y - 1/2 Y W
    cube:    W <- 9/4 W - 3/2 V + 1/4 W V

No phase reads a matrix that it writes, not even an element that a program has to itself: Triton loads the operands of
later steps of a product, and of later tiles, ahead of time, and only the barrier between phases holds it back.

The first step, where Y = W = A, takes Y_1 = 3/2 A - 1/2 V without another product, and leaves A as it is. The last
iterate is 3/2 Y - 1/2 Y W of what N - 1 steps leave.

With FACTOR the second matrix is Z, of which Y = A Z, in the place of Y: the factor q(K) between features on the side of
the positions, where K is in the place of A. Only the start differs, Z_1 = 3/2 I - 1/2 K, which takes no product at all.
Z is kept times :func:`unit_of`.
"""

import triton
import triton.language as tl

from ...triton_device.tiles import TANGENT, A, V, block_of, load_tile, multiply_tiles, store_tile
from ...triton_device.triangle import upper_tile


@triton.jit
def unit_of(n_iter):
    """Compute the power of two in which Z is kept, so that 1.5^N, its growth in a null space, stays in float16.

    It is 1 up to 15 iterations, and no smaller than for 32, so that the Z of a regular matrix keeps its digits. Beyond
    34 that of a singular one overflows, and its sample is NaN.
    """
    return tl.exp2(-tl.minimum(tl.maximum(tl.ceil(0.584963 * tl.cast(n_iter, tl.float32) - 9.0), 0.0), 10.0))


@triton.jit
def identity(rows, columns):
    """Give a tile of the identity."""
    return tl.where(rows[:, None] == columns[None, :], 1.0, 0.0)


@triton.jit
def regularised(gram, rows, columns, M, trace):
    """Make a tile of the Gram matrix K regular where features are centred, without a change to what comes of it.

    The rows of z sum to zero, so K has the vector of ones in its null space, where rounding would grow by 9/4 in every
    iteration; and z has no part in it, so its eigenvalue may be any. It is made 1/M. What is beyond the M positions,
    and all of a constant sample, whose trace is zero, is made the identity: that stays as it is, where zeros would have
    Z grow by 3/2 in every iteration.
    """
    inside = (rows[:, None] < M) & (columns[None, :] < M)
    regular = tl.where(inside, tl.div_rn(1.0, M * M * 1.0), identity(rows, columns))
    return gram + tl.where(trace == 0, identity(rows, columns), regular)


@triton.jit
def matrices_of(step):
    """Name the matrices that hold W_k, Y_k and nothing, before step k."""
    turn = (step + 2) % 3
    w = tl.where(step == 0, A, tl.where(turn == 0, 3, tl.where(turn == 1, 2, 4)))
    y = tl.where(step == 0, A, tl.where(turn == 0, 2, tl.where(turn == 1, 4, 3)))
    free = tl.where(step == 0, 2, tl.where(turn == 0, 4, tl.where(turn == 1, 3, 2)))
    return w, y, free


@triton.jit
def square_tile(
    slab,
    step,
    job,
    TILES: tl.constexpr,
    P: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute one of the TILES tiles of V and, from the second step on, one of as many of the next Y."""
    w, y, free = matrices_of(step)
    next_y = job >= TILES
    i, j = upper_tile(job - tl.where(next_y, TILES, 0))
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    left = tl.where(next_y, y, w)
    out = tl.where(next_y, free, V)
    keep = tl.where(next_y, 1.5, 0.0)
    product = tl.where(next_y, -0.5, 1.0)
    total, d_total = multiply_tiles(slab, left, w, rows, columns, P, TANGENTS, PLANES, BLOCK, BLOCK_K)
    previous = load_tile(slab, left, rows, columns, P)
    store_tile(slab, out, keep * previous + product * total, rows, columns, i != j, P, PLANES)
    if TANGENTS:
        d_previous = load_tile(slab, left + TANGENT, rows, columns, P)
        store_tile(slab, out + TANGENT, keep * d_previous + product * d_total, rows, columns, i != j, P, PLANES)


@triton.jit
def cube_tile(
    slab,
    step,
    n_iter,
    tile,
    P: tl.constexpr,
    FACTOR: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of the next W, which is stored where the last Y was; in the first step of Y_1, or Z_1, too."""
    w, y, free = matrices_of(step)
    out = tl.where(step == 0, 3, y)
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    total, d_total = multiply_tiles(slab, w, V, rows, columns, P, TANGENTS, PLANES, BLOCK, BLOCK_K)
    linear = load_tile(slab, w, rows, columns, P)
    square = load_tile(slab, V, rows, columns, P)
    store_tile(slab, out, 2.25 * linear - 1.5 * square + 0.25 * total, rows, columns, i != j, P, PLANES)
    if step == 0:
        if FACTOR:
            first = unit_of(n_iter) * (1.5 * identity(rows, columns) - 0.5 * linear)
        else:
            first = 1.5 * linear - 0.5 * square
        store_tile(slab, free, first, rows, columns, i != j, P, PLANES)
    if TANGENTS:
        d_linear = load_tile(slab, w + TANGENT, rows, columns, P)
        d_square = load_tile(slab, V + TANGENT, rows, columns, P)
        d_next = 2.25 * d_linear - 1.5 * d_square + 0.25 * d_total
        store_tile(slab, out + TANGENT, d_next, rows, columns, i != j, P, PLANES)
        if step == 0:
            d_first = -0.5 * unit_of(n_iter) * d_linear if FACTOR else 1.5 * d_linear - 0.5 * d_square
            store_tile(slab, free + TANGENT, d_first, rows, columns, i != j, P, PLANES)


@triton.jit
def root_tile(
    slab,
    n_iter,
    rows,
    columns,
    P: tl.constexpr,
    FACTOR: tl.constexpr,
    TANGENTS: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute a tile of Y_N, or of Z_N times its unit, and, with TANGENTS, of its tangent."""
    w, y, _ = matrices_of(n_iter - 1)
    total, d_total = multiply_tiles(slab, y, w, rows, columns, P, TANGENTS, PLANES, BLOCK, BLOCK_K)
    previous = load_tile(slab, y, rows, columns, P)
    if FACTOR:
        # Z_0 is the identity, which is nowhere in the slab.
        unit, started = unit_of(n_iter), n_iter > 1
        total = tl.where(started, total, unit * previous)
        previous = tl.where(started, previous, unit * identity(rows, columns))
    root = 1.5 * previous - 0.5 * total
    d_root = root
    if TANGENTS:
        d_previous = load_tile(slab, y + TANGENT, rows, columns, P)
        if FACTOR:
            d_total = tl.where(started, d_total, unit * d_previous)
            d_previous = tl.where(started, d_previous, 0.0)
        d_root = 1.5 * d_previous - 0.5 * d_total
    return root, d_root
