"""Pooling of features to a function of the eigenvalues of their covariance: a power, or the logarithm.

They give what :func:`gcp_kernels.matrix_power` and :func:`gcp_kernels.matrix_log` give of a covariance, and serve the
layers. With fewer positions than channels the eigen-decomposition is of matrices as small as the positions are few.
"""

from collections.abc import Callable

from torch import Tensor

from gcp_kernels.validation import check_choice, check_features, check_positive

from ..arguments import OUTPUTS, channels_first, check_arithmetic, run_reference, takes_reference
from ..operators import Operator
from . import operator


def power_pool(
    x: Tensor, alpha: float, *, channel_dim: int, output: str, precision: str | None, backend: str | None
) -> Tensor:
    """Pool features to the covariance of their channels to the power ``alpha``, as ``matrix_power`` defines it.

    The arguments are those of :func:`gcp_kernels.covariance_pool`, but ``precision`` has no effect: it is always
    "high", float32 at least without TF32, from the features to the result.

    Returns:
        (B, C, C) or (B, C(C+1)/2), in the dtype of ``x``.
    """
    check_positive("alpha", alpha)
    return _pool(operator.power_pool, operator.power_reference, x, alpha, channel_dim, output, precision, backend)


def log_pool(
    x: Tensor, eps: float, *, channel_dim: int, output: str, precision: str | None, backend: str | None
) -> Tensor:
    """Pool features to the logarithm of the covariance of their channels plus ``eps``, as ``matrix_log`` defines it.

    Everything else is as in :func:`power_pool`.
    """
    check_positive("eps", eps)
    return _pool(operator.log_pool, operator.log_reference, x, eps, channel_dim, output, precision, backend)


def _pool(
    of_operator: Operator,
    of_reference: Callable[..., Tensor],
    x: Tensor,
    option: float,
    channel_dim: int,
    output: str,
    precision: str | None,
    backend: str | None,
) -> Tensor:
    check_features(x, channel_dim)
    check_choice("output", output, OUTPUTS)
    _, backend = check_arithmetic(precision, backend)
    features, triu = channels_first(x, channel_dim), output == "triu"
    if takes_reference(backend):
        return run_reference(of_reference, features, option, triu)
    pooled: Tensor = of_operator(features, option, triu, backend)[0]
    return pooled
