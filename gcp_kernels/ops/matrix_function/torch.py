"""matrix_power and matrix_log by an eigen-decomposition: exact, with their derivatives.

Both take (B, C, C) matrices and return f(Sigma) = U diag(f(l)) U^T, with the eigenvalues l and the eigenvectors U that
the backward pass needs. Everything is computed in the accumulation dtype, but on a GPU the decomposition, which is in
float64 (see :func:`gcp_kernels.eigenvalues.eigh`); no product uses TF32.
"""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..torch_device.eigenvalues import decompose, log_differences, power_differences
from ..torch_device.products import matmul_precision


def matrix_power(cov: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, C) -> power (B, C, C), eigenvalues (B, C), eigenvectors (B, C, C)."""
    eigenvalues, eigenvectors = decompose(cov.to(accumulation_dtype(cov.dtype)))
    return compose(eigenvalues.pow(alpha), eigenvectors, cov), eigenvalues, eigenvectors


def matrix_power_backward(grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, alpha: float) -> Tensor:
    """Backward: gradient of the power -> gradient of ``cov``, symmetric, both (B, C, C)."""
    return rotate(power_differences(eigenvalues, alpha), eigenvectors, grad, cov)


def matrix_log(cov: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, C) -> logarithm of cov + eps I (B, C, C), its eigenvalues (B, C) and eigenvectors (B, C, C)."""
    eigenvalues, eigenvectors = decompose(cov.to(accumulation_dtype(cov.dtype)))
    eigenvalues += eps
    return compose(eigenvalues.log(), eigenvectors, cov), eigenvalues, eigenvectors


def matrix_log_backward(grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, eps: float) -> Tensor:
    """Backward: gradient of the logarithm -> gradient of ``cov``, symmetric, both (B, C, C)."""
    return rotate(log_differences(eigenvalues), eigenvectors, grad, cov)


def compose(values: Tensor, eigenvectors: Tensor, like: Tensor) -> Tensor:
    """Compute U diag(values) U^T, (B, C, C), in the dtype of ``like``, the matrices that the operator was given."""
    with matmul_precision(like.device, like.dtype, "high"):
        return torch.bmm(eigenvectors * values[:, None, :], eigenvectors.mT).to(like.dtype)


def rotate(differences: Tensor, eigenvectors: Tensor, grad: Tensor, cov: Tensor) -> Tensor:
    """Compute U (differences o U^T G U) U^T, (B, C, C), in the dtype of ``cov``; G is the symmetric part of ``grad``.

    With divided differences this is the Frechet derivative of f in the direction G (Daleckii and Krein). As a map of G
    it is its own adjoint.
    """
    grad = grad.to(eigenvectors.dtype)
    symmetric = (grad + grad.mT).mul_(0.5)
    with matmul_precision(cov.device, cov.dtype, "high"):
        rotated = torch.bmm(torch.bmm(eigenvectors.mT, symmetric), eigenvectors).mul_(differences)
        return torch.bmm(torch.bmm(eigenvectors, rotated), eigenvectors.mT).to(cov.dtype)
