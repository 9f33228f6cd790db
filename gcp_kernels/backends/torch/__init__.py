"""The torch backend: the formulas of docs/mathematics.md in batched matrix products.

It serves every operation, dtype and device: it is the CPU implementation, the float64 implementation, and what a GPU
uses where no fused kernel can.
"""

import torch

from .covariance_pool import covariance_pool, covariance_pool_backward
from .isqrt_pool import isqrt_pool, isqrt_pool_backward
from .matrix_function import matrix_log, matrix_log_backward, matrix_power, matrix_power_backward
from .newton_schulz_inverse_sqrt import newton_schulz_inverse_sqrt, newton_schulz_inverse_sqrt_backward
from .newton_schulz_sqrt import newton_schulz_sqrt, newton_schulz_sqrt_backward
from .triangle import triu_unvec, triu_vec

__all__ = [
    "covariance_pool",
    "covariance_pool_backward",
    "isqrt_pool",
    "isqrt_pool_backward",
    "matrix_log",
    "matrix_log_backward",
    "matrix_power",
    "matrix_power_backward",
    "newton_schulz_inverse_sqrt",
    "newton_schulz_inverse_sqrt_backward",
    "newton_schulz_sqrt",
    "newton_schulz_sqrt_backward",
    "triu_unvec",
    "triu_vec",
    "why_not",
]


def why_not(operation: str, tensor: torch.Tensor, precision: str = "default") -> str | None:
    """Why this backend cannot run ``operation`` on ``tensor``: it always can."""
    return None
