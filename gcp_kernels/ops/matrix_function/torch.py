"""matrix_power and matrix_log by an eigen-decomposition: exact, with their derivatives.

Both take (B, C, C) matrices and return f(Sigma) = U diag(f(l)) U^T, with the eigenvalues l and the eigenvectors U that
the backward pass needs. Everything is computed in the accumulation dtype, and no product uses TF32.
"""

import torch
from torch import Tensor

from gcp_kernels.eigenvalues import ZERO_EIGENVALUE
from gcp_kernels.precision import accumulation_dtype

from ..torch_device.products import matmul_precision


def matrix_power(cov: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, C) -> power (B, C, C), eigenvalues (B, C), eigenvectors (B, C, C)."""
    eigenvalues, eigenvectors = decompose(cov)
    return compose(eigenvalues.pow(alpha), eigenvectors, cov), eigenvalues, eigenvectors


def matrix_power_backward(grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, alpha: float) -> Tensor:
    """Backward: gradient of the power -> gradient of ``cov``, symmetric, both (B, C, C)."""
    high, ratio, equal = pairs(eigenvalues)
    # (h^alpha - l^alpha) / (h - l) = h^(alpha - 1) (1 - r^alpha) / (1 - r) for r = l / h, where nothing cancels: for
    # alpha = 1/2 it is 1 / (sqrt h + sqrt l) to the last digit.
    difference = torch.expm1(ratio.log().mul_(alpha)).div_(ratio - 1)
    difference = torch.where(equal, alpha, difference).mul_(high.pow(alpha - 1))
    if alpha < 1:  # infinite for two zero eigenvalues
        difference.masked_fill_(high == 0, 0)
    return rotate(difference, eigenvectors, grad, cov)


def matrix_log(cov: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, C) -> logarithm of cov + eps I (B, C, C), its eigenvalues (B, C) and eigenvectors (B, C, C)."""
    eigenvalues, eigenvectors = decompose(cov)
    eigenvalues += eps
    return compose(eigenvalues.log(), eigenvectors, cov), eigenvalues, eigenvectors


def matrix_log_backward(grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, eps: float) -> Tensor:
    """Backward: gradient of the logarithm -> gradient of ``cov``, symmetric, both (B, C, C)."""
    high, ratio, equal = pairs(eigenvalues)
    difference = torch.where(equal, 1, ratio.log().div_(ratio - 1)).div_(high)
    return rotate(difference, eigenvectors, grad, cov)


def decompose(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Find the eigenvalues, ascending and none negative, and eigenvectors of the symmetric part of (B, C, C) matrices.

    A matrix with NaN or infinity gets NaN eigenvalues. Given to the decomposition, it would make that of the whole
    batch raise.
    """
    matrix = cov.to(accumulation_dtype(cov.dtype))
    matrix = (matrix + matrix.mT).mul_(0.5)
    finite = matrix.isfinite().flatten(1).all(1)[:, None]
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.where(finite[..., None], matrix, 0))
    zero = eigenvalues <= ZERO_EIGENVALUE * torch.finfo(matrix.dtype).eps * eigenvalues[:, -1:]
    eigenvalues = torch.where(finite, eigenvalues.masked_fill(zero, 0), torch.nan)
    return eigenvalues, eigenvectors.contiguous()


def compose(values: Tensor, eigenvectors: Tensor, like: Tensor) -> Tensor:
    """Compute U diag(values) U^T, (B, C, C), in the dtype of ``like``, the matrices that the operator was given."""
    with matmul_precision(like.device, like.dtype, "high"):
        return torch.bmm(eigenvectors * values[:, None, :], eigenvectors.mT).to(like.dtype)


def pairs(eigenvalues: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the eigenvalues in pairs: the larger, the smaller over the larger, and whether that ratio is 1.

    Two zero eigenvalues have ratio 0. Where the ratio is 1, formulas that divide by 1 less the ratio need their limit.

    Returns:
        Three tensors, each (B, C, C).
    """
    left, right = eigenvalues[:, :, None], eigenvalues[:, None, :]
    high = torch.maximum(left, right)
    ratio = torch.minimum(left, right).div_(torch.where(high == 0, 1, high))
    return high, ratio, ratio == 1


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
