"""Division by the trace before the iteration, and the gradient through both."""

import torch
from torch import Tensor

from .iteration import Iterates, derivative
from .triangle import fold_gradient

SCRATCH_MATRICES = 4


def normalise(matrix: Tensor) -> Tensor:
    """Divide matrices (b, C, C) by their traces, in place, and return the traces (b,). Trace zero gives zeros."""
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    matrix.div_(torch.where(trace == 0, torch.inf, trace)[:, None, None])
    return trace


class GradientScratch:
    """Working memory of the backward pass for one chunk of the batch."""

    def __init__(self, like: Tensor, chunk: int) -> None:
        self._slab = like.new_empty(1 + SCRATCH_MATRICES, chunk, *like.shape[-2:])

    def covariance_gradient(self, iterates: Iterates, grad: Tensor, triu: bool) -> Tensor:
        """2 sqrt(t) dL/dSigma, symmetric, (b, C, C), from the gradient of sqrt(t) Y_N.

        With G the symmetric part of the gradient, L = L_f(A, G) and r = sqrt(t), docs/mathematics.md has
        dL/dSigma = (r L + a I) / t with a = r <G, Y_N> / 2 - r <L, A>. The caller multiplies by
        :func:`inverse_root`, so that neither t nor its inverse can overflow on the way.

        Args:
            iterates: of the forward pass.
            grad: (b, C(C+1)/2) with ``triu``, else (b, C, C).
            triu: whether the upper triangle was returned.
        """
        slab = self._slab[:, : grad.shape[0]]
        twice_g = fold_gradient(grad, triu, out=slab[0])
        diagonal = inner(twice_g, iterates.root) / 2
        gradient = derivative(iterates, twice_g, slab[1:])
        diagonal -= inner(gradient, iterates.w[0])
        gradient.diagonal(dim1=-2, dim2=-1).add_(diagonal[:, None])
        return gradient


def inverse_root(trace: Tensor) -> Tensor:
    """1 / sqrt(t) of traces (b,), shaped to scale matrices; 0 for a trace of zero, whose gradient is zero."""
    return torch.where(trace == 0, 0, trace.rsqrt())[:, None, None]


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Frobenius inner products of matrices (b, C, C), shape (b,)."""
    return torch.linalg.vecdot(left.flatten(1), right.flatten(1))
