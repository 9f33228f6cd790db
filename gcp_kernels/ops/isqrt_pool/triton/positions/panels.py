"""Products on the side of the positions whose matrices do not fit on chip, tile by tile.

The slab holds (P, P) matrices, P being M rounded up to whole tiles, with K in the place of A. What is (C, P) lies in a
*panel* beside it, as a high and a low plane: T = z q(K) forward, H = 2 G z backward, with z the scaled centred
features. z itself is read from the features wherever it is needed.

K is made regular, see :func:`regularised`, which changes no product of z.

The gradient comes from two derivatives: of z on either side of q(K), and of q(K), L = L_q(K, S) with S = z^T H. S is
divided by its own largest magnitude and by M, which bounds its eigenvalues by 1. No tangent leaves the range of float16
then, as long as S has little part in what is nearly a null space of K, where q has the slope 3.375^N. The trace term is
-(<q, S> / 2 + <L, K>).
"""

import triton
import triton.language as tl

from ....triton_device.features import centred_tile, first_position, load_centre, store_features
from ....triton_device.products import accumulate, accumulated, multiply_add, split
from ....triton_device.tiles import TANGENT, A, V, block_of, load_tile, store_tile
from ....triton_device.triangle import store_symmetric, symmetric_tile, upper_tile
from ..iteration import regularised, root_tile, unit_of


@triton.jit
def panel_of(panels, index, C, P: tl.constexpr):
    """Find the ``index``-th panel."""
    return panels + index * C * (2 * P)


@triton.jit
def load_panel(panel, channels, positions, C, P: tl.constexpr, PLANES: tl.constexpr):
    """Load planes of a tile of a panel, zero beyond the channels; the low one is of no meaning where it is not read."""
    at, inside = panel + channels[:, None] * P + positions[None, :], channels[:, None] < C
    high = tl.load(at, mask=inside, other=0.0)
    low = high
    if PLANES == 2:
        low = tl.load(at + C * P, mask=inside, other=0.0)
    return high, low


@triton.jit
def store_panel(panel, tile, channels, positions, C, P: tl.constexpr, PLANES: tl.constexpr):
    """Store what products with PLANES planes read of a tile."""
    at, inside = panel + channels[:, None] * P + positions[None, :], channels[:, None] < C
    high, low = split(tile)
    tl.store(at, high, mask=inside)
    if PLANES == 2:
        tl.store(at + C * P, low, mask=inside)


@triton.jit
def load_planes(slab, matrix, rows, columns, P: tl.constexpr, PLANES: tl.constexpr):
    """Load planes of a tile of a matrix in the slab; the low one is of no meaning where it is not read."""
    at = slab + matrix * (2 * P * P) + rows[:, None] * P + columns[None, :]
    high = tl.load(at)
    low = high
    if PLANES == 2:
        low = tl.load(at + P * P)
    return high, low


@triton.jit
def gram_tile(
    x,
    centre,
    scale,
    panel,
    rows,
    columns,
    start,
    stop,
    P: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute a tile of the sum over channels ``start`` to ``stop`` of z^T z, or of z^T H with H in the panel."""
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for c in range(start, stop, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        shift, mean = first_position(x, channels), load_centre(centre, x, channels)
        left_high, left_low = split(centred_tile(x, channels, rows, shift, mean) * scale)
        if panel is None:
            right_high, right_low = split(centred_tile(x, channels, columns, shift, mean) * scale)
        else:
            right_high, right_low = load_panel(panel, channels, columns, x.C, P, PLANES)
        total = accumulate(tl.trans(left_high), tl.trans(left_low), right_high, right_low, total, PLANES)
    return accumulated(total, PLANES)


@triton.jit
def store_gram(slab, k, rows, columns, mirrored, M, trace, P: tl.constexpr, PLANES: tl.constexpr):
    """Store a tile of K, made regular."""
    store_tile(slab, A, regularised(k, rows, columns, M, trace), rows, columns, mirrored, P, PLANES)


@triton.jit
def factor_tile(slab, tile, n_iter, P: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Store a tile of q(K), times its unit, where V was."""
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    factor, _ = root_tile(slab, n_iter, rows, columns, P, True, False, PLANES, BLOCK, BLOCK_K)
    store_tile(slab, V, factor, rows, columns, i != j, P, PLANES)


@triton.jit
def product_tile(
    slab,
    x,
    centre,
    scale,
    n_iter,
    panel,
    rows,
    columns,
    P: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store a tile of T = z q(K) in the panel."""
    shift, mean = first_position(x, rows), load_centre(centre, x, rows)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, P, BLOCK_K):
        positions = start + tl.arange(0, BLOCK_K)
        high, low = split(centred_tile(x, rows, positions, shift, mean) * scale)
        factor_high, factor_low = load_planes(slab, V, positions, columns, P, PLANES)
        total = accumulate(high, low, factor_high, factor_low, total, PLANES)
    store_panel(panel, accumulated(total, PLANES) / unit_of(n_iter), rows, columns, x.C, P, PLANES)


@triton.jit
def pooled_tile(
    panel,
    x,
    centre,
    scale,
    trace,
    out,
    tile,
    TRIU: tl.constexpr,
    P: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store a tile of the result, sqrt(trace) T z^T."""
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    shift, mean = first_position(x, columns), load_centre(centre, x, columns)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, P, BLOCK_K):
        positions = start + tl.arange(0, BLOCK_K)
        left_high, left_low = load_panel(panel, rows, positions, x.C, P, PLANES)
        high, low = split(centred_tile(x, columns, positions, shift, mean) * scale)
        total = accumulate(left_high, left_low, tl.trans(high), tl.trans(low), total, PLANES)
    store_symmetric(out, accumulated(total, PLANES) * tl.sqrt_rn(trace), rows, columns, x.C, TRIU)


@triton.jit
def upstream_tile(
    grad,
    sample,
    x,
    centre,
    scale,
    largest,
    panel,
    rows,
    columns,
    WIDE: tl.constexpr,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store a tile of H = 2 G z in the panel, with G divided by its largest magnitude.

    Operands are split in two in every precision: of all products this one's rounding counts most, see ``blocks``.
    """
    # Multiplied twice, since the inverse of a subnormal number is infinite, that of a huge one is subnormal, and a
    # division takes longer than a product.
    near = tl.where(largest < 2.0**-64, 2.0**64, tl.where(largest > 2.0**64, 2.0**-64, 1.0))
    inverse = tl.where(largest == 0, 1.0, tl.div_rn(1.0, largest * near))
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for c in range(0, x.C, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        shift, mean = first_position(x, channels), load_centre(centre, x, channels)
        left_high, left_low = split(symmetric_tile(grad, sample, rows, channels, x.C, WIDE) * near * inverse)
        high, low = split(centred_tile(x, channels, columns, shift, mean) * scale)
        total = multiply_add(left_high, left_low, high, low, total, 2)
    store_panel(panel, total, rows, columns, x.C, P, 2)


@triton.jit
def derivative_tile(
    slab, tile, n_iter, P: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Store a tile of q(K) where V was and of L where its tangent was; return its part of the trace term."""
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    factor, derivative = root_tile(slab, n_iter, rows, columns, P, True, True, PLANES, BLOCK, BLOCK_K)
    store_tile(slab, V, factor, rows, columns, i != j, P, 2)
    store_tile(slab, V + TANGENT, derivative, rows, columns, i != j, P, 2)
    part = 0.5 * load_tile(slab, A + TANGENT, rows, columns, P) * factor
    part += load_tile(slab, A, rows, columns, P) * derivative
    return tl.sum(part) * tl.where(i == j, -1.0, -2.0)


@triton.jit
def gradient_tile(
    slab,
    panel,
    x,
    centre,
    scale,
    n_iter,
    norm,
    trace_term,
    factor,
    grad_x,
    rows,
    columns,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store a tile of factor (H q + norm z (L + trace_term I)), with all operands split.

    ``norm`` is what S was divided by; L and the trace term are of what that left.
    """
    shift, mean = first_position(x, rows), load_centre(centre, x, rows)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, P, BLOCK_K):
        positions = start + tl.arange(0, BLOCK_K)
        high, low = split(centred_tile(x, rows, positions, shift, mean) * scale)
        right_high, right_low = load_planes(slab, V + TANGENT, positions, columns, P, 2)
        total = multiply_add(high, low, right_high, right_low, total, 2)
    total = (total + trace_term * (centred_tile(x, rows, columns, shift, mean) * scale)) * norm
    for start in range(0, P, BLOCK_K):
        positions = start + tl.arange(0, BLOCK_K)
        left_high, left_low = load_panel(panel, rows, positions, x.C, P, 2)
        right_high, right_low = load_planes(slab, V, positions, columns, P, 2)
        total = multiply_add(left_high, left_low, right_high, right_low, total, 2)
    store_features(grad_x, total * (factor / unit_of(n_iter)), rows, columns)
