"""newton_schulz_sqrt in batched products."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..shapes import empty_iterates, keeps_iterates
from ..torch_device.batch_slices import slice_size, slices
from ..torch_device.iteration import Iterates, newton_schulz
from ..torch_device.normalisation import GradientScratch, inverse_root, normalise
from ..torch_device.products import iteration_precision
from ..torch_device.storage import IterateStorage


def newton_schulz_sqrt(cov: Tensor, n_iter: int, keep_iterates: bool, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, C) -> root (B, C, C), trace (B,), iterates (B, 2N, C, C), or (B, 0, C, C) if none are kept."""
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    root = torch.empty_like(cov, memory_format=torch.contiguous_format)
    trace = cov.new_empty(b, dtype=dtype)
    kept = empty_iterates(cov, c, n_iter, keeps_iterates(cov, keep_iterates, "torch"))
    size = slice_size(b, c, c, dtype, cov.device)
    storage = IterateStorage(kept, n_iter, size, c, of_root=True)
    with iteration_precision(cov.device, cov.dtype, precision):
        for part in slices(b, size):
            iterates = storage[part]
            trace[part] = start(iterates, cov[part])
            root[part] = newton_schulz(iterates) * trace[part].sqrt()[:, None, None]
    return root, trace, kept


def newton_schulz_sqrt_backward(
    grad: Tensor, cov: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, precision: str
) -> Tensor:
    """Backward: gradient of the root -> gradient of ``cov``, symmetric, both (B, C, C)."""
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    grad_cov = torch.empty_like(cov, memory_format=torch.contiguous_format)
    size = slice_size(b, c, c, dtype, cov.device)
    storage = IterateStorage(iterates, n_iter, size, c, of_root=True)
    scratch = GradientScratch(trace, size, c)
    with iteration_precision(cov.device, cov.dtype, precision):
        for part in slices(b, size):
            saved = storage[part]
            if not iterates.shape[1]:
                start(saved, cov[part])
                newton_schulz(saved)
            gradient = scratch.covariance_gradient(saved, grad[part], triu=False)
            grad_cov[part] = gradient.mul_(inverse_root(trace[part]) / 2)
    return grad_cov


def start(iterates: Iterates, cov: Tensor) -> Tensor:
    """Write the symmetric part of ``cov`` (b, C, C), divided by its trace, into ``iterates``; return the trace (b,)."""
    cov = cov.to(iterates.last.dtype)
    return normalise(torch.add(cov, cov.mT, out=iterates.w[0]).mul_(0.5))
