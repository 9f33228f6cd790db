"""Eigen-decompositions of symmetric matrices, and the divided differences of powers and of the logarithm."""

import torch
from torch import Tensor

from gcp_kernels.eigenvalues import ZERO_EIGENVALUE, eigh


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Find the eigenvalues, ascending and none negative, and eigenvectors of the symmetric part of (B, s, s) matrices.

    A matrix with NaN or infinity gets NaN eigenvalues. Given to the decomposition, it would make that of the whole
    batch raise.
    """
    matrix = (matrix + matrix.mT).mul_(0.5)
    finite = matrix.isfinite().flatten(1).all(1)[:, None]
    eigenvalues, eigenvectors = eigh(torch.where(finite[..., None], matrix, 0))
    zero = eigenvalues <= ZERO_EIGENVALUE * torch.finfo(matrix.dtype).eps * eigenvalues[:, -1:]
    eigenvalues = torch.where(finite, eigenvalues.masked_fill(zero, 0), torch.nan)
    return eigenvalues, eigenvectors.contiguous()


def power_differences(eigenvalues: Tensor, alpha: float) -> Tensor:
    """Compute (x^alpha - y^alpha) / (x - y) for all pairs of (B, s) eigenvalues, (B, s, s); 0 where it is infinite."""
    high, ratio, equal = _pairs(eigenvalues)
    # (h^alpha - l^alpha) / (h - l) = h^(alpha - 1) (1 - r^alpha) / (1 - r) for r = l / h, where nothing cancels: for
    # alpha = 1/2 it is 1 / (sqrt h + sqrt l) to the last digit.
    difference = torch.expm1(ratio.log().mul_(alpha)).div_(ratio - 1)
    difference = torch.where(equal, alpha, difference).mul_(high.pow(alpha - 1))
    if alpha < 1:  # infinite for two zero eigenvalues
        difference.masked_fill_(high == 0, 0)
    return difference


def log_differences(eigenvalues: Tensor) -> Tensor:
    """Compute (log x - log y) / (x - y) for all pairs of (B, s) eigenvalues above zero, (B, s, s)."""
    high, ratio, equal = _pairs(eigenvalues)
    return torch.where(equal, 1, ratio.log().div_(ratio - 1)).div_(high)


def _pairs(eigenvalues: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the eigenvalues in pairs: the larger, the smaller over the larger, and whether that ratio is 1.

    Two zero eigenvalues have ratio 0. Where the ratio is 1, formulas that divide by 1 less the ratio need their limit.

    Returns:
        Three tensors, each (B, s, s).
    """
    left, right = eigenvalues[:, :, None], eigenvalues[:, None, :]
    high = torch.maximum(left, right)
    ratio = torch.minimum(left, right).div_(torch.where(high == 0, 1, high))
    return high, ratio, ratio == 1
