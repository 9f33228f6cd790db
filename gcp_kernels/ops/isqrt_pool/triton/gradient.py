"""Start and end of the backward pass, tile by tile: the direction G, and the gradient of what was given.

G, the symmetric part of the upstream gradient, is divided by its largest magnitude and by the growth, see
:func:`products.growth_of`. The derivative is linear in G, so both are undone at the very end. The derivative L ends as
a high and a low plane in every precision, since its product with the features may cancel (rank-one covariances).

The *trace term* <G, Y_N> / 2 - <L, A> is what the trace of the covariance, by which it was divided, adds to L.
"""

import triton
import triton.language as tl

from ...triton_device.features import centred_tile, first_position, load_centre, store_features
from ...triton_device.products import multiply_add, split
from ...triton_device.tiles import TANGENT, A, V, block_of, load_tile, store_tile
from ...triton_device.triangle import upper_tile
from .iteration import root_tile


@triton.jit
def derivative_tile(
    slab, tile, n_iter, P: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Store a tile of L where V was; return its part of the trace term."""
    i, j = upper_tile(tile)
    rows, columns = block_of(i, BLOCK), block_of(j, BLOCK)
    root, derivative = root_tile(slab, n_iter, rows, columns, P, False, True, PLANES, BLOCK, BLOCK_K)
    store_tile(slab, V, derivative, rows, columns, i != j, P, 2)
    part = 0.5 * load_tile(slab, A + TANGENT, rows, columns, P) * root
    part -= load_tile(slab, A, rows, columns, P) * derivative
    # Summed over all elements at once: for sm_100, Triton 3.7 cannot compile a sum over rows of what its tensor cores
    # leave in a tile of 64 rows.
    return tl.sum(part) * tl.where(i == j, 1.0, 2.0)


@triton.jit
def feature_gradient_tile(
    slab,
    x,
    centre,
    grad_x,
    trace_term,
    scale,
    factor,
    rows,
    positions,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store a tile of factor (L + trace_term I) (scale (x - mu)); ``x`` and ``grad_x`` are samples."""
    at_high = slab + V * (2 * P * P) + rows[:, None] * P + tl.arange(0, BLOCK_K)[None, :]
    total = tl.zeros((BLOCK, BLOCK_M), tl.float32)
    for start in range(0, P, BLOCK_K):
        channels = start + tl.arange(0, BLOCK_K)
        shift = first_position(x, channels)
        tile = centred_tile(x, channels, positions, shift, load_centre(centre, x, channels)) * scale
        high, low = split(tile)
        total = multiply_add(tl.load(at_high + start), tl.load(at_high + P * P + start), high, low, total, 2)
    shift = first_position(x, rows)
    own = centred_tile(x, rows, positions, shift, load_centre(centre, x, rows)) * scale
    store_features(grad_x, (total + trace_term * own) * factor, rows, positions)


@triton.jit
def matrix_gradient_tile(slab, trace_term, rows, columns, P: tl.constexpr):
    """Compute a tile of L + trace_term I."""
    return load_tile(slab, V, rows, columns, P) + tl.where(rows[:, None] == columns[None, :], trace_term, 0.0)
