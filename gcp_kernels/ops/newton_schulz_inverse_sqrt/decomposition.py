"""newton_schulz_inverse_sqrt in operators of torch."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..standard_operators import divide_by_trace, inverse_root, newton_schulz


def newton_schulz_inverse_sqrt(cov: Tensor, n_iter: int, eps: float) -> Tensor:
    """Approximate the inverse square root of (B, C, C) matrices plus eps I, in their dtype."""
    widened = cov.to(accumulation_dtype(cov.dtype))
    identity = torch.eye(cov.shape[-1], dtype=widened.dtype, device=cov.device)
    a, trace = divide_by_trace((widened + widened.mT) / 2 + eps * identity)
    return (newton_schulz(a, n_iter, of_root=False) * inverse_root(trace)).to(cov.dtype)
