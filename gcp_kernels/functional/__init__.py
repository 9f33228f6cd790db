"""Global covariance pooling as functions of tensors; each is differentiable to any order.

The third and higher derivatives of :func:`matrix_power` and :func:`matrix_log` want distinct eigenvalues.
"""

from .channel_dropout import dropcov
from .cross_covariance import cross_covariance_pool, singular_value_power
from .normalization import elementwise_power, matrix_log, matrix_power, newton_schulz_inverse_sqrt
from .pooling import covariance_pool, fused_gcp, newton_schulz_sqrt
from .triangle import triu_unvec, triu_vec

__all__ = [
    "covariance_pool",
    "cross_covariance_pool",
    "dropcov",
    "elementwise_power",
    "fused_gcp",
    "matrix_log",
    "matrix_power",
    "newton_schulz_inverse_sqrt",
    "newton_schulz_sqrt",
    "singular_value_power",
    "triu_unvec",
    "triu_vec",
]
