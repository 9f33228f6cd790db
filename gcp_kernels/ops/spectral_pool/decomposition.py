"""power_pool and log_pool in operators of torch: the covariance of the channels, decomposed."""

from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..covariance_pool.decomposition import covariance_pool
from ..matrix_function.decomposition import matrix_log, matrix_power
from ..standard_operators import read_triangle


def power_pool(x: Tensor, alpha: float, triu: bool) -> Tensor:
    """Raise the covariance of features (B, C, M) to a power: (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``."""
    power = matrix_power(_covariance(x), alpha)
    return (read_triangle(power) if triu else power).to(x.dtype)


def log_pool(x: Tensor, eps: float, triu: bool) -> Tensor:
    """Take the logarithm of the covariance plus eps I: (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``."""
    logarithm = matrix_log(_covariance(x), eps)
    return (read_triangle(logarithm) if triu else logarithm).to(x.dtype)


def _covariance(x: Tensor) -> Tensor:
    """Compute the covariance (B, C, C) in the accumulation dtype."""
    return covariance_pool(x.to(accumulation_dtype(x.dtype)), None, False)
