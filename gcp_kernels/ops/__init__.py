"""The operators of the package, ``torch.ops.gcp_kernels.*``: schema, fake, autograd, autocast and vmap of each.

Forward and backward are separate operators, so that compilers see both. Saved for backward are the input, the mean
(as an offset from the first position) and the trace; on the CPU, where time matters more than memory, the iterates too.
Functions of the eigenvalues keep those and the eigenvectors.
"""

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
]
