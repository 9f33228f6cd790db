"""Newton-Schulz square root of given matrices, and the normalisation that isqrt_pool shares with it."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.shapes import empty_iterates

from .config import chunk_size, chunks
from .iteration import Iterates, derivative, newton_schulz
from .products import matmul_precision
from .storage import IterateStorage
from .triangle import fold_gradient

SCRATCH_MATRICES = 4


def newton_schulz_sqrt(cov: Tensor, n_iter: int, keep_iterates: bool, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, C) -> root (B, C, C), trace (B,), iterates (B, 2N, C, C), or (B, 0, C, C) if not kept."""
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    root = torch.empty_like(cov, memory_format=torch.contiguous_format)
    trace = cov.new_empty(b, dtype=dtype)
    kept = empty_iterates(cov, c, n_iter, keep_iterates)
    chunk = chunk_size(b, c, c, dtype, cov.device)
    storage = IterateStorage(kept, n_iter, chunk)
    with matmul_precision(cov.device, cov.dtype, precision):
        for part in chunks(b, chunk):
            iterates = storage[part]
            trace[part] = start(iterates, cov[part])
            root[part] = newton_schulz(iterates) * trace[part].sqrt()[:, None, None]
    return root, trace, kept


def newton_schulz_sqrt_backward(
    grad: Tensor, cov: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, precision: str
) -> Tensor:
    """Backward: dL/droot (B, C, C) -> dL/dcov (B, C, C), symmetric."""
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    grad_cov = torch.empty_like(cov, memory_format=torch.contiguous_format)
    chunk = chunk_size(b, c, c, dtype, cov.device)
    storage = IterateStorage(iterates, n_iter, chunk)
    scratch = GradientScratch(iterates, chunk)
    with matmul_precision(cov.device, cov.dtype, precision):
        for part in chunks(b, chunk):
            saved = storage[part]
            if not iterates.shape[1]:
                start(saved, cov[part])
                newton_schulz(saved)
            gradient = scratch.covariance_gradient(saved, grad[part], triu=False)
            grad_cov[part] = gradient.mul_(inverse_root(trace[part]) / 2)
    return grad_cov


def start(iterates: Iterates, cov: Tensor) -> Tensor:
    """Put the normalised symmetric part of ``cov`` (b, C, C) into ``iterates``; returns its trace (b,)."""
    cov = cov.to(iterates.root.dtype)
    return normalise(torch.add(cov, cov.mT, out=iterates.w[0]).mul_(0.5))


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
