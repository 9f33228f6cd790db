"""newton_schulz_sqrt: the kernels of isqrt_pool on a covariance that is given."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.precision import resolve_precision

from ..isqrt_pool.triton.launch import launch_backward, launch_forward
from ..shapes import empty_iterates
from ..triton_device import policy
from ..triton_device.architecture import architecture


def newton_schulz_sqrt(cov: Tensor, n_iter: int, keep_iterates: bool, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Take the root of (B, C, C) matrices; give it, their traces (B,) and no iterates (B, 0, C, C)."""
    b, c, _ = cov.shape
    precision = resolve_precision(precision, cov.dtype)
    root = torch.empty_like(cov, memory_format=torch.contiguous_format)
    trace = cov.new_empty(b, dtype=torch.float32)
    if b:
        choice = policy.sqrt_forward(b, c, precision, architecture(cov.device))
        launch_forward(cov, root, None, trace, n_iter, precision, choice)
    return root, trace, empty_iterates(cov, c, n_iter, False)


def newton_schulz_sqrt_backward(
    grad: Tensor, cov: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, precision: str
) -> Tensor:
    """Turn the gradient of the root into that of the matrices, (B, C, C) and symmetric."""
    b, c, _ = cov.shape
    precision = resolve_precision(precision, cov.dtype)
    grad_cov = torch.empty_like(cov, memory_format=torch.contiguous_format)
    if b:
        choice = policy.sqrt_backward(b, c, precision, architecture(cov.device))
        launch_backward(grad, cov, None, trace, grad_cov, n_iter, precision, choice)
    return grad_cov
