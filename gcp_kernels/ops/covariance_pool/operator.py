"""Operators covariance_pool and covariance_pool_backward: population covariance of (B, C, M) features.

The covariance may be scaled by one number for each channel: diag(s) Sigma diag(s) with s of shape (B, C). An operator
cannot return ``None``, so without a scale its gradient is an empty tensor, (B, 0).
"""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_floating, check_scale, check_shape

from ..library import declare
from ..shapes import empty_gradient, empty_scale_gradient, pooled_shape
from . import decomposition


def _fake(x: Tensor, scale: Tensor | None, triu: bool, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    """Allocate covariance and centre (B, C)."""
    b, c, _ = x.shape
    return x.new_empty(pooled_shape(b, c, triu)), x.new_empty(b, c, dtype=accumulation_dtype(x.dtype))


def _check(x: Tensor, scale: Tensor | None) -> None:
    check_floating("x", x)
    if scale is not None:
        check_scale(scale, x)


def _backward_fake(
    grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, triu: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor]:
    return empty_gradient(x), empty_scale_gradient(x, scale)


def _check_backward(grad: Tensor, x: Tensor, scale: Tensor | None, triu: bool) -> None:
    b, c, _ = x.shape
    check_shape("grad", grad, pooled_shape(b, c, triu))
    if scale is not None:
        check_scale(scale, x)


def _reference(x: Tensor, scale: Tensor | None, triu: bool) -> Tensor:
    pooled = reference.covariance_pool(x, scale)
    return reference.triu_vec(pooled) if triu else pooled


covariance_pool, covariance_pool_backward = declare(
    "covariance_pool",
    fake=_fake,
    check=_check,
    backward_fake=_backward_fake,
    check_backward=_check_backward,
    reference=_reference,
    decomposition=decomposition.covariance_pool,
)
