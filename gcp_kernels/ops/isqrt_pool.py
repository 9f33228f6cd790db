"""Operators isqrt_pool and isqrt_pool_backward: iSQRT-COV pooling of (B, C, M) features."""

from typing import Any

from torch import Tensor

from gcp_kernels import backends, reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.shapes import empty_gradient, empty_iterates, pooled_shape
from gcp_kernels.validation import check_at_least, check_floating, check_shape

from .library import define, differentiable, keeps_iterates, save
from .second_order import differentiate_backward


def _forward(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_floating("x", x)
    check_at_least("n_iter", n_iter, 1)
    keep = keeps_iterates(x, keep_iterates, backend)
    return backends.select("isqrt_pool", x, backend, precision).isqrt_pool(x, n_iter, triu, keep, precision)


def _forward_fake(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, c, _ = x.shape
    dtype = accumulation_dtype(x.dtype)
    return (
        x.new_empty(pooled_shape(b, c, triu)),
        x.new_empty(b, c, dtype=dtype),
        x.new_empty(b, dtype=dtype),
        empty_iterates(x, c, n_iter, keeps_iterates(x, keep_iterates, backend)),
    )


def _backward(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    trace: Tensor,
    iterates: Tensor,
    n_iter: int,
    triu: bool,
    precision: str,
    backend: str,
) -> Tensor:
    b, c, _ = x.shape
    check_shape("grad", grad, pooled_shape(b, c, triu))
    check_shape("iterates", iterates, (b, 0, c, c), (b, 2 * n_iter, c, c))
    module = backends.select("isqrt_pool", x, backend, precision)
    return module.isqrt_pool_backward(grad, x, offset, trace, iterates, n_iter, triu, precision)


def _backward_fake(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return empty_gradient(x)


_pool = define(
    "isqrt_pool(Tensor x, int n_iter, bool triu, bool keep_iterates, str precision, str backend)"
    " -> (Tensor pooled, Tensor offset, Tensor trace, Tensor iterates)",
    _forward,
    _forward_fake,
)
_pool_backward = define(
    "isqrt_pool_backward(Tensor grad, Tensor x, Tensor offset, Tensor trace, Tensor iterates, int n_iter,"
    " bool triu, str precision, str backend) -> Tensor grad_x",
    _backward,
    _backward_fake,
)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *ctx.options = inputs
    _, offset, trace, iterates = output
    save(ctx, x, offset, trace, iterates)
    ctx.mark_non_differentiable(offset, trace, iterates)


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    n_iter, triu, _keep, precision, backend = ctx.options
    grad_x = isqrt_pool_backward(grad, *ctx.saved_tensors, n_iter, triu, precision, backend)
    return grad_x, None, None, None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, _offset, _trace, _iterates, n_iter, triu, _precision, _backend = inputs
    save(ctx, grad, x)
    ctx.n_iter, ctx.triu = n_iter, triu


def _differentiate_twice(ctx: Any, tangent: Tensor | None) -> tuple[Tensor | None, ...]:
    if tangent is None:
        return (None,) * 9
    n_iter, triu = ctx.n_iter, ctx.triu

    def pool(x: Tensor) -> Tensor:
        pooled = reference.isqrt_pool(x, n_iter)
        return reference.triu_vec(pooled) if triu else pooled

    grad_grad, grad_x = differentiate_backward(pool, (tangent,), *ctx.saved_tensors)
    return grad_grad, grad_x, None, None, None, None, None, None, None


isqrt_pool = differentiable(_pool, _differentiate, _save_for_backward)
isqrt_pool_backward = differentiable(_pool_backward, _differentiate_twice, _save_for_double_backward)
