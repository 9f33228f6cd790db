"""The Newton-Schulz iteration and its derivative, in batched products written into preallocated memory.

The published iteration has two matrices, Y and Z. This is an equivalent form without Z. With W = Z Y, which starts at
A,

    T = (3 I - W) / 2;    Y <- Y T;    W <- W T T = 9/4 W - 3/2 W^2 + 1/4 W^3

All matrices are polynomials of A, so they are symmetric and commute. Nothing cancels in the directions of small
eigenvalues, so these keep their relative accuracy. (Where an eigenvalue is zero, what rounding left of it grows by 9/4
in each iteration, as it grows by 3/2 in each of Y and Z. That is fine for 7 iterations, not for 20.)
This form has three advantages:

- with P = W dW, d(W^2) = P + P^T and d(W^3) = H + H^T for H = W (P + P^T / 2). So two products give the next dW, where
  the coupled form takes four for dZ and dT;
- Y_1 = A T_0 is a by-product of W_1 = A T_0 T_0, and dY_1 = 3/2 dA - 1/2 d(A^2) takes no product;
- the last two steps are one: Y_N = Y_{N-2} Q with Q = T_{N-2} T_{N-1}, a quartic polynomial of W = W_{N-2},
  Q = 9/4 I - 39/16 W + 27/16 V + 1/16 V (V - 9 W) with V = W^2.

At N = 5 the forward pass takes 11 products and the backward pass 15; written out for whole matrices, the coupled form
takes 12 and 24.

Z_N itself, which the side of the positions needs, is the product of all T, without the A that Y starts from: Y_0 = I
instead of A, so that Y_1 = T_0 takes no product. It takes as many products in all. Where A has small eigenvalues, most
of Z_k is a multiple of the identity, up to 1.5^k I. What is kept is Z_k - c_k I: its elements are small, and so is what
is lost in rounding them: 1.6 times less in the gradient of a covariance of rank one with noise, 3 to 4 times less for
256 channels of rectified normal features at 14x14 positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Iterates:
    """The matrices of one forward pass that its derivative needs, each of shape (b, s, s).

    ``w[k]`` and ``y[k]`` are W_k and Y_k for k = 0 .. N - 2; ``w[0]`` and ``y[0]`` are both A. ``square`` is V,
    ``factor`` is Q - 9/4 I, and ``last`` is Y_N. For N = 1 there are only A and Y_1.

    Where ``of_root`` is not set, ``y[k]`` and ``last`` are Z_k - c_k I and Z_N - c_N I, see :func:`identity_part`; the
    first is zero, and not there.
    """

    w: list[Tensor]
    y: list[Tensor]
    square: Tensor
    factor: Tensor
    last: Tensor
    of_root: bool

    @staticmethod
    def view(slab: Tensor, of_root: bool) -> "Iterates":
        """Name the matrices of ``slab``, shape (2 N, b, s, s). The caller fills the first, A."""
        a, *others, last = slab.unbind(0)
        if not others:
            return Iterates([a], [a], square=last, factor=last, last=last, of_root=of_root)
        *steps, square, factor = others
        half = len(steps) // 2
        return Iterates([a, *steps[:half]], [a, *steps[half:]], square, factor, last, of_root)

    @property
    def one_step(self) -> bool:
        """Say whether N = 1."""
        return self.last is self.square

    @property
    def last_identity_part(self) -> float:
        """Give c_N, of which ``last`` lacks the multiple of the identity where it is for Z_N."""
        return identity_part(1 if self.one_step else len(self.w) + 1)


# More would cost digits of what Z tends to, where the eigenvalues of A are all alike: about the root of their number.
GROWING_ITERATIONS = 5


def identity_part(k: int) -> float:
    """Give c_k: what Z_k has at an eigenvalue of zero, 1.5^k, up to five iterations, and no more later."""
    return 1.5 ** min(k, GROWING_ITERATIONS)


def newton_schulz(iterates: Iterates) -> Tensor:
    """Fill ``iterates`` from its matrix A, symmetric with trace 1 (or zero), and return Y_N, or Z_N - c_N I."""
    w, y, square, factor, last = iterates.w, iterates.y, iterates.square, iterates.factor, iterates.last
    if iterates.one_step:
        if iterates.of_root:
            return torch.baddbmm(w[0], w[0], w[0], beta=1.5, alpha=-0.5, out=last)
        return torch.mul(w[0], -0.5, out=last)

    # The matrices that are filled last serve as working memory until then.
    t, product = square, factor
    for k in range(len(w) - 1):
        torch.mul(w[k], -0.5, out=t).diagonal(dim1=-2, dim2=-1).add_(1.5)
        wt = torch.bmm(w[k], t, out=y[1] if k == 0 and iterates.of_root else product)
        torch.bmm(wt, t, out=w[k + 1])
        if iterates.of_root:
            if k > 0:
                torch.bmm(y[k], t, out=y[k + 1])
        elif k == 0:
            torch.mul(w[0], -0.5, out=y[1])
        else:  # (Z + c I) T = Z T - c / 2 W + 3/2 c I
            c = identity_part(k)
            torch.baddbmm(w[k], y[k], t, beta=-c / 2, out=y[k + 1])
            add_identity(y[k + 1], 3 / 2 * c - identity_part(k + 1))

    torch.bmm(w[-1], w[-1], out=square)
    torch.sub(square, w[-1], alpha=13 / 9, out=factor)
    cofactor = torch.sub(square, w[-1], alpha=9, out=last)
    factor.baddbmm_(square, cofactor, beta=27 / 16, alpha=1 / 16)
    if iterates.of_root:
        return torch.baddbmm(y[-1], y[-1], factor, beta=9 / 4, out=last)
    if len(w) == 1:
        return last.copy_(factor)
    # (Z + c I) Q = 9/4 Z + c (Q - 9/4 I) + Z (Q - 9/4 I) + 9/4 c I
    c = identity_part(len(w) - 1)
    torch.add(y[-1], factor, alpha=4 / 9 * c, out=last).baddbmm_(y[-1], factor, beta=9 / 4)
    return add_identity(last, 9 / 4 * c - iterates.last_identity_part)


def add_identity(matrix: Tensor, multiple: float) -> Tensor:
    """Add a multiple of the identity to matrices (b, s, s), in place."""
    if multiple:
        matrix.diagonal(dim1=-2, dim2=-1).add_(multiple)
    return matrix


def derivative(iterates: Iterates, g: Tensor, scratch: Tensor) -> Tensor:
    """Compute L_f(A, G), the Frechet derivative of A -> Y_N, or A -> Z_N, in the direction G.

    This map of G is its own adjoint: with G = dL/dY_N the result is dL/dA.

    Args:
        iterates: filled by :func:`newton_schulz`.
        g: G, symmetric, shape (b, s, s). Overwritten.
        scratch: working memory of any content, shape (4, b, s, s).

    Returns:
        L_f(A, G), symmetric, shape (b, s, s), in memory of ``g`` or ``scratch``.
    """
    w, y, square, of_root = iterates.w, iterates.y, iterates.square, iterates.of_root
    p, spare, dy_spare, dy_next = scratch.unbind(0)
    dw = dy = g
    for k in range(len(w) - 1):
        torch.bmm(w[k], dw, out=p)
        torch.add(p, p.mT, alpha=0.5, out=spare)
        if k == 0 and of_root:  # 3/2 dA - 1/2 d(A^2), where d(A^2) = P + P^T
            dy = torch.lerp(torch.add(spare, p.mT, alpha=0.5, out=dy_spare), dw, 1.5, out=dy_spare)
        elif k == 0:  # dT_0
            dy = torch.mul(dw, -0.5, out=dy_spare)
        else:
            # Of Z, the multiple of the identity in it makes dW a term of its own.
            start = dy if of_root else torch.add(dy, dw, alpha=-identity_part(k) / 3, out=dy_next)
            torch.baddbmm(start, dy, w[k], beta=1.5, alpha=-0.5, out=dy_next).baddbmm_(y[k], dw, alpha=-0.5)
            dy, dy_next = dy_next, dy
        half = dw.sub_(p, alpha=4 / 3).baddbmm_(w[k], spare, beta=9 / 8, alpha=1 / 4)
        dw, spare = torch.add(half, half.mT, out=spare), dw

    if iterates.one_step and not of_root:
        return dw.mul_(-0.5)
    torch.bmm(w[-1], dw, out=p)
    if iterates.one_step:
        return torch.lerp(torch.add(p, p.mT, out=spare), dw, 1.5)
    # dQ = K + K^T with K = -39/32 dW + 27/16 P + 1/16 (V - 9 W) P + 1/16 (V - 9/2 W) P^T
    half = torch.sub(p, dw, alpha=13 / 18, out=dy_spare if len(w) == 1 else dw)
    half.baddbmm_(torch.sub(square, w[-1], alpha=9, out=spare), p, beta=27 / 16, alpha=1 / 16)
    half.baddbmm_(torch.sub(square, w[-1], alpha=9 / 2, out=spare), p.mT, alpha=1 / 16)
    dq = torch.add(half, half.mT, out=spare)
    if len(w) == 1 and not of_root:
        return dq
    start = dy if of_root else torch.add(dy, dq, alpha=4 / 9 * identity_part(len(w) - 1), out=dy_next)
    return torch.baddbmm(start, dy, iterates.factor, beta=9 / 4, out=dy_next).baddbmm_(y[-1], dq)
