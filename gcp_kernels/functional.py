"""All public functions of tensors, from their rooms in :mod:`gcp_kernels.ops`. Each is differentiable to any order.

The third and higher derivatives of :func:`matrix_power` and :func:`matrix_log` need distinct eigenvalues.
"""

from .ops.covariance_pool import covariance_pool
from .ops.cross_covariance import cross_covariance_pool, singular_value_power
from .ops.dropcov import dropcov
from .ops.elementwise_power import elementwise_power
from .ops.isqrt_pool import fused_gcp
from .ops.matrix_function import matrix_log, matrix_power
from .ops.newton_schulz_inverse_sqrt import newton_schulz_inverse_sqrt
from .ops.newton_schulz_sqrt import newton_schulz_sqrt
from .ops.triangle import triu_unvec, triu_vec

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

# What pickles and traces name, and tracebacks show: the place that stays, wherever the rooms are.
for _name in __all__:
    globals()[_name].__module__ = __name__
