"""The factor q(K) of the Gram matrix K of positions, by which features are multiplied; and its derivative.

Y_N = z q(K) z^T, where q is the product of all factors T of the iteration: Z_N with K in the place of A, see
docs/mathematics.md. Matrices are (BLOCK_M, BLOCK_M) and stay on chip.
"""

import triton
import triton.language as tl

from ....triton_device.products import accumulate, accumulated, accumulator, multiply, split
from ..iteration import identity


@triton.jit
def first_factor(k, unit):
    """Compute (3 I - K) / 2 times ``unit``."""
    rows = tl.arange(0, k.shape[0])
    return unit * (1.5 * identity(rows, rows) - 0.5 * k)


@triton.jit
def factor_of(k, unit, n_iter, PLANES: tl.constexpr):
    """Compute q(K) times ``unit``."""
    w, z = k, first_factor(k, unit)
    for _ in range(n_iter - 1):
        v = multiply(w, w, tl.zeros_like(w), PLANES)
        w = 0.25 * multiply(w, v, 9 * w - 6 * v, PLANES)
        z = -0.5 * multiply(z, w, -3 * z, PLANES)
    return z


@triton.jit
def at_square(matrices, index, BLOCK_M: tl.constexpr):
    """List the addresses of the ``index``-th of (BLOCK_M, BLOCK_M) matrices."""
    rows = tl.arange(0, BLOCK_M)
    return matrices + index * (BLOCK_M * BLOCK_M) + rows[:, None] * BLOCK_M + rows[None, :]


@triton.jit
def next_w(w, dw, PLANES: tl.constexpr):
    """Take W and its tangent to those of the next iteration.

    The tangent is half of it and the transpose of that half, since W and dW are symmetric: with P = dW W,
    d(W W) = P + P^T and d(W W W) = H + H^T, H = (P + P^T / 2) W.
    """
    p = multiply(dw, w, tl.zeros_like(w), PLANES)
    half = multiply(0.25 * p + 0.125 * tl.trans(p), w, -1.5 * p, PLANES)
    dw = 2.25 * dw + (half + tl.trans(half))
    v = multiply(w, w, tl.zeros_like(w), PLANES)
    return 0.25 * multiply(v, w, 9 * w - 6 * v, PLANES), dw


@triton.jit
def next_z(z, dz, w_high, w_low, dw_high, dw_low, PLANES: tl.constexpr):
    """Take Z and its tangent to those of the next iteration, by the planes of the next W and its tangent."""
    high, low = split(dz)
    d_total = accumulate(high, low, w_high, w_low, accumulator(-3 * dz, PLANES), PLANES)
    high, low = split(z)
    d_total = accumulate(high, low, dw_high, dw_low, d_total, PLANES)
    total = accumulate(high, low, w_high, w_low, accumulator(-3 * z, PLANES), PLANES)
    return -0.5 * accumulated(total, PLANES), -0.5 * accumulated(d_total, PLANES)


@triton.jit
def factor_and_tangent(k, d_k, unit, n_iter, history, PLANES: tl.constexpr, BLOCK_M: tl.constexpr):
    """Compute q(K), and its derivative in the direction ``d_k``, times ``unit``.

    Where W, Z, their tangents and the planes of a product are more than there are registers, all of W comes first: it
    is left in ``history``, as planes, and Z follows.
    """
    w, dw = k, d_k
    z, dz = first_factor(k, unit), -0.5 * unit * d_k
    if history is None:
        for _ in range(n_iter - 1):
            w, dw = next_w(w, dw, PLANES)
            w_high, w_low = split(w)
            dw_high, dw_low = split(dw)
            z, dz = next_z(z, dz, w_high, w_low, dw_high, dw_low, PLANES)
    else:
        for step in range(n_iter - 1):
            w, dw = next_w(w, dw, PLANES)
            w_high, w_low = split(w)
            dw_high, dw_low = split(dw)
            tl.store(at_square(history, 4 * step, BLOCK_M), w_high)
            tl.store(at_square(history, 4 * step + 1, BLOCK_M), w_low)
            tl.store(at_square(history, 4 * step + 2, BLOCK_M), dw_high)
            tl.store(at_square(history, 4 * step + 3, BLOCK_M), dw_low)
        tl.debug_barrier()
        for step in range(n_iter - 1):
            w_high = tl.load(at_square(history, 4 * step, BLOCK_M))
            w_low = tl.load(at_square(history, 4 * step + 1, BLOCK_M))
            dw_high = tl.load(at_square(history, 4 * step + 2, BLOCK_M))
            dw_low = tl.load(at_square(history, 4 * step + 3, BLOCK_M))
            z, dz = next_z(z, dz, w_high, w_low, dw_high, dw_low, PLANES)
    return z, dz
