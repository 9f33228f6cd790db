"""Operators covariance_pool and covariance_pool_backward: population covariance of (B, C, M) features."""

from typing import Any

from torch import Tensor

from gcp_kernels import backends, reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.shapes import empty_gradient, pooled_shape
from gcp_kernels.validation import check_floating, check_shape

from .library import define, differentiable
from .second_order import differentiate_backward


def _forward(x: Tensor, triu: bool, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    check_floating("x", x)
    return backends.select("covariance_pool", x, backend).covariance_pool(x, triu, precision)


def _forward_fake(x: Tensor, triu: bool, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    b, c, _ = x.shape
    return x.new_empty(pooled_shape(b, c, triu)), x.new_empty(b, c, dtype=accumulation_dtype(x.dtype))


def _backward(grad: Tensor, x: Tensor, offset: Tensor, triu: bool, precision: str, backend: str) -> Tensor:
    b, c, _ = x.shape
    check_shape("grad", grad, pooled_shape(b, c, triu))
    module = backends.select("covariance_pool", x, backend)
    return module.covariance_pool_backward(grad, x, offset, triu, precision)


def _backward_fake(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return empty_gradient(x)


_pool = define(
    "covariance_pool(Tensor x, bool triu, str precision, str backend) -> (Tensor pooled, Tensor offset)",
    _forward,
    _forward_fake,
)
_pool_backward = define(
    "covariance_pool_backward(Tensor grad, Tensor x, Tensor offset, bool triu, str precision, str backend)"
    " -> Tensor grad_x",
    _backward,
    _backward_fake,
)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.options = inputs
    _, offset = output
    ctx.save_for_backward(x, offset)
    ctx.mark_non_differentiable(offset)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    return covariance_pool_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, _offset, ctx.triu, _precision, _backend = inputs
    ctx.save_for_backward(grad, x)
    ctx.set_materialize_grads(False)


def _differentiate_twice(ctx: Any, tangent: Tensor | None) -> tuple[Tensor | None, ...]:
    if tangent is None:
        return (None,) * 6
    triu = ctx.triu

    def pool(x: Tensor) -> Tensor:
        pooled = reference.covariance_pool(x)
        return reference.triu_vec(pooled) if triu else pooled

    grad_grad, grad_x = differentiate_backward(pool, tangent, *ctx.saved_tensors)
    return grad_grad, grad_x, None, None, None, None


covariance_pool = differentiable(_pool, _differentiate, _save_for_backward)
covariance_pool_backward = differentiable(_pool_backward, _differentiate_twice, _save_for_double_backward)
