"""Which normalisation a pooling layer applies to the covariance, and the options that belong to it."""

from torch import Tensor

from ..functional import covariance_pool, elementwise_power, fused_gcp, matrix_log, matrix_power, triu_vec
from ..ops.override import overridable
from ..precision import accumulation_dtype
from ..validation import check_choice, check_positive

NORMALIZATIONS = ("isqrt", "none", "power", "log", "elementwise")

PUBLISHED_ITERATIONS = 5
DEFAULT_ALPHA = 0.5
DEFAULT_EPS = 1e-3


def check_normalization(normalization: str, n_iter: int, alpha: float | None, eps: float | None) -> None:
    """Raise for a normalisation that is not known, and for an option that it does not use."""
    check_choice("normalization", normalization, NORMALIZATIONS)
    if alpha is not None:
        check_positive("alpha", alpha)
    if eps is not None:
        check_positive("eps", eps)
    for option, given, owner in (
        ("n_iter", n_iter != PUBLISHED_ITERATIONS, "isqrt"),
        ("alpha", alpha is not None, "power"),
        ("eps", eps is not None, "log"),
    ):
        if given and normalization != owner:
            value = {"n_iter": n_iter, "alpha": alpha, "eps": eps}[option]
            raise ValueError(
                f"{option} is an option of normalization={owner!r}, got {option}={value} with "
                f"normalization={normalization!r}"
            )


@overridable
def pool_and_normalize(
    x: Tensor,
    normalization: str,
    *,
    n_iter: int,
    alpha: float,
    eps: float,
    channel_dim: int,
    output: str,
    precision: str | None,
    backend: str | None,
) -> Tensor:
    """Features (B, C, *spatial) to their normalised covariance, (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``.

    Between pooling and normalisation half precision features are float32, since the rounding of a covariance is what
    its small eigenvalues, and an epsilon, are lost in.
    """
    if normalization == "isqrt":
        return fused_gcp(x, n_iter=n_iter, channel_dim=channel_dim, output=output, precision=precision, backend=backend)
    if normalization == "none":
        return covariance_pool(x, channel_dim=channel_dim, output=output, precision=precision, backend=backend)
    precise = x.to(accumulation_dtype(x.dtype))
    if normalization == "elementwise":
        cov = covariance_pool(precise, channel_dim=channel_dim, output=output, precision=precision, backend=backend)
        return elementwise_power(cov.flatten(1)).view_as(cov).to(x.dtype)
    cov = covariance_pool(precise, channel_dim=channel_dim, precision=precision, backend=backend)
    if normalization == "power":
        normalized = matrix_power(cov, alpha, backend=backend)
    else:
        normalized = matrix_log(cov, eps, backend=backend)
    return (normalized if output == "full" else triu_vec(normalized, backend=backend)).to(x.dtype)
