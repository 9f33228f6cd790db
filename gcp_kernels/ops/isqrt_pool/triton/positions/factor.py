"""The factor q(K) of the Gram matrix K of positions, by which features are multiplied; and its derivative.

Y_N = z q(K) z^T, where q is the product of all factors T of the iteration: Z_N with K in the place of A, see
docs/mathematics.md. Matrices are (BLOCK_M, BLOCK_M) and stay on chip.
"""

import triton
import triton.language as tl

from ....triton_device.products import multiply, multiply_tangent


@triton.jit
def regularised(gram, M):
    """Make the Gram matrix regular where features are centred, without a change to their products with q(K).

    The rows of z sum to zero, so K has the vector of ones in its null space, where rounding would grow by 9/4 in every
    iteration; and z has no part in it, so its eigenvalue may be any. It is made 1/M. What is beyond the M positions is
    made the identity, which stays as it is, where zeros would have Z grow by 3/2 in every iteration.
    """
    rows, columns = tl.arange(0, gram.shape[0])[:, None], tl.arange(0, gram.shape[0])[None, :]
    beyond = tl.where(rows == columns, 1.0, 0.0)
    return gram + tl.where((rows < M) & (columns < M), 1.0 / (M * M), beyond)


@triton.jit
def unit_of(n_iter):
    """Compute the power of two in which Z is kept, so that 1.5^N, its growth in a null space, stays in float16.

    It is 1 up to 15 iterations, and no smaller than for 32, so that the Z of a regular matrix keeps its digits.
    """
    return tl.exp2(-tl.minimum(tl.maximum(tl.ceil(0.584963 * tl.cast(n_iter, tl.float32) - 9.0), 0.0), 10.0))


@triton.jit
def first_factor(k, unit):
    """Compute (3 I - K) / 2 times ``unit``."""
    rows = tl.arange(0, k.shape[0])
    return unit * (tl.where(rows[:, None] == rows[None, :], 1.5, 0.0) - 0.5 * k)


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
def factor_and_tangent(k, d_k, unit, n_iter, PLANES: tl.constexpr):
    """Compute q(K), and its derivative in the direction ``d_k``, times ``unit``."""
    w, dw = k, d_k
    z, dz = first_factor(k, unit), -0.5 * unit * d_k
    for _ in range(n_iter - 1):
        v = multiply(w, w, tl.zeros_like(w), PLANES)
        dv = multiply_tangent(w, dw, w, dw, tl.zeros_like(w), PLANES)
        dw = 0.25 * multiply_tangent(w, dw, v, dv, 9 * dw - 6 * dv, PLANES)
        w = 0.25 * multiply(w, v, 9 * w - 6 * v, PLANES)
        dz = -0.5 * multiply_tangent(z, dz, w, dw, -3 * dz, PLANES)
        z = -0.5 * multiply(z, w, -3 * z, PLANES)
    return z, dz
