"""The Newton-Schulz iteration and its derivative, in batched products written into preallocated memory.

The published coupled iteration (Y, Z) is carried out in the equivalent form without Z: with W = Z Y and W_0 = Y_0 = A,

    T = (3I - W) / 2;    Y <- Y T;    W <- T W T = 9/4 W - 3/2 W^2 + 1/4 W^3

All matrices are polynomials of A, so they are symmetric and commute. Every term keeps the small eigenvalues of A to
full relative accuracy, because nothing is subtracted from the identity on the way to W. What this form buys:

- in the backward pass, d(W^2) = P + P^T and d(W^3) = H + H^T with P = W dW and H = W (P + P^T / 2): two products for
  dW instead of the four of dZ and dT;
- the first Y is a by-product: Y_1 = 3/2 A - 1/2 A^2;
- the last two steps are one: Y_N = Y_{N-2} Q with Q = T_{N-2} T_{N-1}, a quartic polynomial of W_{N-2}:
  Q = 9/4 I - 39/16 W + 27/16 V - 9/16 V W + 1/16 V^2, V = W^2.

At N = 5 the forward pass takes 11 products and the backward pass 15, against 12 and 24 for the coupled form. (The
upper-triangle saving of DESIGN section 2 needs a product that computes half of its output, which a batched matrix
product of whole matrices does not offer.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Iterates:
    """The matrices of one forward pass that its derivative needs, each of shape (b, C, C).

    ``w[k]`` and ``y[k]`` are the iterates W_k and Y_k for k = 0 .. max(N - 2, 0), ``root`` is Y_N. ``square`` and
    ``factor`` are V and Q of the last two steps; N = 1 has neither.
    """

    w: list[Tensor]
    y: list[Tensor]
    root: Tensor
    square: Tensor
    factor: Tensor

    @staticmethod
    def view(slab: Tensor, n_iter: int) -> "Iterates":
        """Name the 2 N matrices of ``slab``, shape (2 N, b, C, C); the first is A, to be filled by the caller."""
        matrices = list(slab.unbind(0))
        if n_iter == 1:
            a, root = matrices
            return Iterates(w=[a], y=[a], root=root, square=root, factor=root)
        w, rest = matrices[: n_iter - 1], matrices[n_iter - 1 :]
        *y, square, factor, root = rest
        return Iterates(w=w, y=[w[0], *y], root=root, square=square, factor=factor)


def newton_schulz(iterates: Iterates) -> Tensor:
    """Fill ``iterates`` from its first matrix A, symmetric with trace 1 (or zero), and return Y_N."""
    w, y, square, factor, root = (
        iterates.w, iterates.y, iterates.square, iterates.factor, iterates.root,
    )  # fmt: skip
    if square is root:  # N = 1
        return torch.baddbmm(w[0], w[0], w[0], beta=1.5, alpha=-0.5, out=root)

    for k in range(len(w) - 1):
        torch.bmm(w[k], w[k], out=square)
        if k == 0:
            torch.lerp(w[0], square, -0.5, out=y[1])
        else:
            torch.baddbmm(y[k], y[k], w[k], beta=1.5, alpha=-0.5, out=y[k + 1])
        torch.lerp(w[k], square, -2.0, out=w[k + 1])
        w[k + 1].baddbmm_(w[k], square, beta=0.75, alpha=0.25)

    torch.bmm(w[-1], w[-1], out=square)
    torch.sub(square, w[-1], alpha=9, out=root)
    torch.sub(square, w[-1], alpha=13 / 9, out=factor)
    factor.baddbmm_(square, root, beta=27 / 16, alpha=1 / 16)
    factor.diagonal(dim1=-2, dim2=-1).add_(9 / 4)
    return torch.bmm(y[-1], factor, out=root)


def derivative(iterates: Iterates, g: Tensor, scratch: Tensor) -> Tensor:
    """The Frechet derivative of A -> Y_N in the direction G, which is also its adjoint: dL/dA for G = dL/dY_N.

    Args:
        iterates: filled by :func:`newton_schulz`.
        g: symmetric, shape (b, C, C). Overwritten.
        scratch: uninitialised memory, shape (4, b, C, C).

    Returns:
        L_f(A, G), symmetric, shape (b, C, C), in memory of ``g`` or ``scratch``.
    """
    w, y = iterates.w, iterates.y
    dw, dy = g, g
    p, r, spare, other = scratch.unbind(0)
    if iterates.square is iterates.root:  # N = 1
        torch.bmm(w[0], dw, out=p)
        torch.add(p, p.mT, out=r)
        return r.mul_(-0.5).add_(dw, alpha=1.5)

    for k in range(len(w) - 1):
        if k == 0:
            torch.bmm(w[0], dw, out=p)
            dy = torch.add(p, p.mT, out=spare).mul_(-0.5).add_(dw, alpha=1.5)
            spare = other
        else:
            torch.baddbmm(dy, dy, w[k], beta=1.5, alpha=-0.5, out=spare)
            spare.baddbmm_(y[k], dw, alpha=-0.5)
            dy, spare = spare, dy
            torch.bmm(w[k], dw, out=p)
        torch.add(p, p.mT, alpha=0.5, out=r)
        half = dw.sub_(p, alpha=4 / 3).baddbmm_(w[k], r, beta=9 / 8, alpha=1 / 4)
        dw, r = torch.add(half, half.mT, out=r), half

    square = iterates.square
    torch.bmm(w[-1], dw, out=p)
    half = torch.sub(p, dw, alpha=13 / 18, out=r)
    torch.sub(square, w[-1], alpha=9, out=spare)
    half.baddbmm_(spare, p, beta=27 / 16, alpha=1 / 16)
    torch.sub(square, w[-1], alpha=9 / 2, out=spare)
    half.baddbmm_(spare, p.mT, alpha=1 / 16)
    dq = torch.add(half, half.mT, out=p)
    return torch.bmm(dy, iterates.factor, out=spare).baddbmm_(y[-1], dq)
