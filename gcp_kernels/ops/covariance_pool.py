"""Operators covariance_pool and covariance_pool_backward: population covariance of (B, C, M) features.

The covariance may be scaled by a number for each channel, diag(s) Sigma diag(s) with s of shape (B, C). Without a scale
its gradient is an empty tensor, (B, 0), since the outputs of an operator are never ``None``.
"""

from typing import Any

from torch import Tensor

from gcp_kernels import backends, reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.shapes import empty_gradient, empty_scale_gradient, pooled_shape
from gcp_kernels.validation import check_floating, check_scale, check_shape

from .library import define, differentiable, save
from .second_order import differentiate_backward


def _forward(x: Tensor, scale: Tensor | None, triu: bool, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    check_floating("x", x)
    if scale is not None:
        check_scale(scale, x)
    return backends.select("covariance_pool", x, backend, precision).covariance_pool(x, scale, triu, precision)


def _forward_fake(x: Tensor, scale: Tensor | None, triu: bool, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    b, c, _ = x.shape
    return x.new_empty(pooled_shape(b, c, triu)), x.new_empty(b, c, dtype=accumulation_dtype(x.dtype))


def _backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, offset: Tensor, triu: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor]:
    b, c, _ = x.shape
    check_shape("grad", grad, pooled_shape(b, c, triu))
    if scale is not None:
        check_scale(scale, x)
    module = backends.select("covariance_pool", x, backend, precision)
    return module.covariance_pool_backward(grad, x, scale, offset, triu, precision)


def _backward_fake(grad: Tensor, x: Tensor, scale: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_gradient(x), empty_scale_gradient(x, scale)


_pool = define(
    "covariance_pool(Tensor x, Tensor? scale, bool triu, str precision, str backend) -> (Tensor pooled, Tensor offset)",
    _forward,
    _forward_fake,
)
_pool_backward = define(
    "covariance_pool_backward(Tensor grad, Tensor x, Tensor? scale, Tensor offset, bool triu, str precision,"
    " str backend) -> (Tensor grad_x, Tensor grad_scale)",
    _backward,
    _backward_fake,
)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, scale, *ctx.options = inputs
    _, offset = output
    save(ctx, x, scale, offset)
    ctx.mark_non_differentiable(offset)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    x, scale, offset = ctx.saved_tensors
    grad_x, grad_scale = covariance_pool_backward(grad, x, scale, offset, *ctx.options)
    return grad_x, None if scale is None else grad_scale, None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, x, scale, _offset, ctx.triu, _precision, _backend = inputs
    _, grad_scale = output
    save(ctx, grad, x, scale)
    if scale is None:
        ctx.mark_non_differentiable(grad_scale)


def _differentiate_twice(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(tangent is None for tangent in tangents):
        return (None,) * 7
    grad, x, scale = ctx.saved_tensors
    triu = ctx.triu

    def pool(x: Tensor, scale: Tensor | None = None) -> Tensor:
        pooled = reference.covariance_pool(x, scale)
        return reference.triu_vec(pooled) if triu else pooled

    if scale is None:
        grad_grad, grad_x = differentiate_backward(pool, tangents[:1], grad, x)
        return grad_grad, grad_x, None, None, None, None, None
    grad_grad, grad_x, grad_scale = differentiate_backward(pool, tangents, grad, x, scale)
    return grad_grad, grad_x, grad_scale, None, None, None, None


covariance_pool = differentiable(_pool, _differentiate, _save_for_backward)
covariance_pool_backward = differentiable(_pool_backward, _differentiate_twice, _save_for_double_backward)
