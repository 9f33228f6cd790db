"""matrix_power and matrix_log in operators of torch, by an eigen-decomposition."""

from torch import Tensor

from gcp_kernels.eigenvalues import spectrum
from gcp_kernels.precision import accumulation_dtype


def matrix_power(cov: Tensor, alpha: float) -> Tensor:
    """Raise (B, C, C) matrices to a power, in their dtype."""
    eigenvalues, u = spectrum(cov.to(accumulation_dtype(cov.dtype)), 0.0)
    return _compose(eigenvalues.pow(alpha), u).to(cov.dtype)


def matrix_log(cov: Tensor, eps: float) -> Tensor:
    """Take the logarithm of (B, C, C) matrices plus eps I, in their dtype."""
    eigenvalues, u = spectrum(cov.to(accumulation_dtype(cov.dtype)), eps)
    return _compose(eigenvalues.log(), u).to(cov.dtype)


def _compose(values: Tensor, u: Tensor) -> Tensor:
    return (u * values[:, None, :]) @ u.mT
