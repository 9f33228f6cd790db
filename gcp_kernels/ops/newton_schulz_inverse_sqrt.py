"""Operators newton_schulz_inverse_sqrt and newton_schulz_inverse_sqrt_backward, of (B, C, C) matrices."""

from typing import Any

from torch import Tensor

from gcp_kernels import backends, reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_at_least, check_floating, check_not_negative, check_shape

from .library import define, differentiable, save
from .second_order import differentiate_backward


def _forward(cov: Tensor, n_iter: int, eps: float, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    check_floating("cov", cov)
    check_at_least("n_iter", n_iter, 1)
    check_not_negative("eps", eps)
    module = backends.select("newton_schulz_inverse_sqrt", cov, backend)
    return module.newton_schulz_inverse_sqrt(cov, n_iter, eps, precision)


def _forward_fake(cov: Tensor, n_iter: int, eps: float, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    b, c, _ = cov.shape
    return cov.new_empty(b, c, c), cov.new_empty(b, dtype=accumulation_dtype(cov.dtype))


def _backward(
    grad: Tensor, cov: Tensor, trace: Tensor, n_iter: int, eps: float, precision: str, backend: str
) -> Tensor:
    b, c, _ = cov.shape
    check_shape("grad", grad, (b, c, c))
    check_shape("trace", trace, (b,))
    module = backends.select("newton_schulz_inverse_sqrt", cov, backend)
    return module.newton_schulz_inverse_sqrt_backward(grad, cov, trace, n_iter, eps, precision)


def _backward_fake(grad: Tensor, cov: Tensor, *_: Any) -> Tensor:
    return cov.new_empty(cov.shape)


_root = define(
    "newton_schulz_inverse_sqrt(Tensor cov, int n_iter, float eps, str precision, str backend)"
    " -> (Tensor root, Tensor trace)",
    _forward,
    _forward_fake,
)
_root_backward = define(
    "newton_schulz_inverse_sqrt_backward(Tensor grad, Tensor cov, Tensor trace, int n_iter, float eps,"
    " str precision, str backend) -> Tensor grad_cov",
    _backward,
    _backward_fake,
)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    cov, *ctx.options = inputs
    _, trace = output
    save(ctx, cov, trace)
    ctx.mark_non_differentiable(trace)


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    return newton_schulz_inverse_sqrt_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, cov, _trace, ctx.n_iter, ctx.eps, _precision, _backend = inputs
    save(ctx, grad, cov)


def _differentiate_twice(ctx: Any, tangent: Tensor | None) -> tuple[Tensor | None, ...]:
    if tangent is None:
        return (None,) * 7
    n_iter, eps = ctx.n_iter, ctx.eps

    def root(cov: Tensor) -> Tensor:
        return reference.newton_schulz_inverse_sqrt(cov, n_iter, eps)

    grad_grad, grad_cov = differentiate_backward(root, (tangent,), *ctx.saved_tensors)
    return grad_grad, grad_cov, None, None, None, None, None


newton_schulz_inverse_sqrt = differentiable(_root, _differentiate, _save_for_backward)
newton_schulz_inverse_sqrt_backward = differentiable(_root_backward, _differentiate_twice, _save_for_double_backward)
