"""Division of a covariance by its trace before the iteration, and the gradient through both."""

import torch
from torch import Tensor

from .iteration import Iterates, derivative
from .triangle import fold_gradient

SCRATCH_MATRICES = 4


def normalise(matrix: Tensor) -> Tensor:
    """Divide matrices (b, s, s) by their traces, in place, and return the traces (b,); a trace of zero gives zeros."""
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    matrix.div_(torch.where(trace == 0, torch.inf, trace)[:, None, None])
    return trace


class GradientScratch:
    """Working memory of the backward pass for one slice of the batch."""

    def __init__(self, trace: Tensor, size: int, side: int) -> None:
        self._slab = trace.new_empty(1 + SCRATCH_MATRICES, size, side, side)

    def matrix(self, samples: int) -> Tensor:
        """Give working memory for one matrix of each of ``samples`` samples, (b, s, s)."""
        return self._slab[0, :samples]

    def covariance_gradient(self, iterates: Iterates, grad: Tensor, triu: bool) -> Tensor:
        """Compute 2 sqrt(t) dL/dSigma from the gradient of sqrt(t) Y_N.

        With G the symmetric part of the gradient and L = L_f(A, G), docs/mathematics.md derives
        dL/dSigma = (L + a I) / sqrt(t) with the trace term a = <G, Y_N> / 2 - <L, A>. The caller multiplies by
        :func:`inverse_root`, so that neither t nor its inverse can overflow on the way.

        Args:
            iterates: those of the forward pass.
            grad: (b, C(C+1)/2) with ``triu``, else (b, C, C).
            triu: whether the forward pass returned the upper triangle.

        Returns:
            Shape (b, C, C), symmetric, in working memory that the next slice of the batch overwrites.
        """
        b = grad.shape[0]
        twice_g = fold_gradient(grad, triu, out=self.matrix(b))
        trace_term = inner(twice_g, iterates.last) / 2
        gradient = derivative(iterates, twice_g, self._slab[1:, :b])
        trace_term -= inner(gradient, iterates.w[0])
        gradient.diagonal(dim1=-2, dim2=-1).add_(trace_term[:, None])
        return gradient

    def gram_gradient(self, iterates: Iterates, twice_p: Tensor) -> Tensor:
        """Compute 2 (L + a I) from 2 P = z^T 2 G z.

        With L = L_q(K, P) the gradient of the scaled features z is H q + z (L + a I), where H = G z and the trace term
        is a = -<q, P> / 2 - <L, K>; docs/mathematics.md derives it.

        Args:
            iterates: those of the forward pass, for q(K) = Z_N.
            twice_p: 2 P, symmetric but for rounding, (b, M, M), in memory of :meth:`matrix`. Overwritten.

        Returns:
            Shape (b, M, M), symmetric, in working memory that the next slice of the batch overwrites.
        """
        trace_term = inner(twice_p, iterates.last) / -2
        trace_term -= twice_p.diagonal(dim1=-2, dim2=-1).sum(-1) * (iterates.last_identity_part / 2)
        gradient = derivative(iterates, twice_p, self._slab[1:, : twice_p.shape[0]])
        trace_term -= inner(gradient, iterates.w[0])
        gradient.diagonal(dim1=-2, dim2=-1).add_(trace_term[:, None])
        return gradient


def inverse_root(trace: Tensor) -> Tensor:
    """Compute 1 / sqrt(t) of traces (b,), as (b, 1, 1).

    It is 0 for a trace of zero, whose gradient is zero, and NaN for one that is infinite: elements that were divided by
    it are zeros, and what is multiplied by this shows it.
    """
    inverse = torch.where(trace == 0, 0, trace.rsqrt())
    return torch.where(trace == torch.inf, torch.nan, inverse)[:, None, None]


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Compute the Frobenius inner products of matrices (b, C, C), shape (b,)."""
    return torch.linalg.vecdot(left.flatten(1), right.flatten(1))
