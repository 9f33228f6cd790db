"""The exact square root of the covariance by eigen-decomposition, with the derivative of Daleckii and Krein.

As in MPN-COV (Li et al., "Is Second-order Information Helpful for Large-scale Visual Recognition?", ICCV 2017) with
alpha = 1/2: Sigma = U diag(l) U^T gives U diag(sqrt l) U^T, and dL/dSigma = U (K * U^T G U) U^T with the divided
differences K_ij = 1 / (sqrt l_i + sqrt l_j), a form that repeated eigenvalues do not trouble.
On a GPU the decomposition is in float64: torch's in float32 would exceed the error that a timed result is allowed.
"""

from __future__ import annotations

from typing import Any

import torch

from gcp_kernels import reference
from gcp_kernels.eigenvalues import eigh


class ExactSquareRoot(torch.autograd.Function):
    """Root of positive semi-definite matrices (B, C, C) of any rank."""

    @staticmethod
    def forward(ctx: Any, cov: torch.Tensor) -> torch.Tensor:
        values, vectors = eigh(cov)
        # Rounding leaves eigenvalues of this size, of either sign, where the matrix is singular.
        noise = cov.shape[-1] * torch.finfo(cov.dtype).eps * values[:, -1:].clamp_min(0)
        roots = torch.where(values > noise, values, 0).sqrt()
        ctx.save_for_backward(roots, vectors)
        return (vectors * roots[:, None, :]) @ vectors.mT

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        roots, vectors = ctx.saved_tensors
        sums = roots[:, :, None] + roots[:, None, :]
        # Within the null space the derivative is infinite, and there x - mu, with which it is multiplied, is zero.
        divided = torch.where(sums > 0, 1 / sums, 0)
        rotated = vectors.mT @ ((grad + grad.mT) / 2) @ vectors
        return vectors @ (divided * rotated) @ vectors.mT


def exact_root_pool(features: torch.Tensor) -> torch.Tensor:
    """Pool (B, C, H, W) -> (B, C(C+1)/2): the upper triangle of the exact root of the population covariance."""
    return reference.triu_vec(ExactSquareRoot.apply(reference.covariance_pool(features.flatten(2))))
