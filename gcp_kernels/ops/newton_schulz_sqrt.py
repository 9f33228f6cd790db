"""Operators newton_schulz_sqrt and newton_schulz_sqrt_backward: Newton-Schulz square root of (B, C, C) matrices."""

from typing import Any

from torch import Tensor

from gcp_kernels import backends, reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.shapes import empty_iterates
from gcp_kernels.validation import check_at_least, check_floating, check_shape

from .library import define, differentiable, keeps_iterates, save
from .second_order import differentiate_backward


def _forward(
    cov: Tensor, n_iter: int, keep_iterates: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    check_floating("cov", cov)
    check_at_least("n_iter", n_iter, 1)
    keep = keeps_iterates(cov, keep_iterates, backend)
    module = backends.select("newton_schulz_sqrt", cov, backend, precision)
    return module.newton_schulz_sqrt(cov, n_iter, keep, precision)


def _forward_fake(
    cov: Tensor, n_iter: int, keep_iterates: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    b, c, _ = cov.shape
    return (
        cov.new_empty(b, c, c),
        cov.new_empty(b, dtype=accumulation_dtype(cov.dtype)),
        empty_iterates(cov, c, n_iter, keeps_iterates(cov, keep_iterates, backend)),
    )


def _backward(
    grad: Tensor, cov: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, precision: str, backend: str
) -> Tensor:
    b, c, _ = cov.shape
    check_shape("grad", grad, (b, c, c))
    check_shape("iterates", iterates, (b, 0, c, c), (b, 2 * n_iter, c, c))
    module = backends.select("newton_schulz_sqrt", cov, backend, precision)
    return module.newton_schulz_sqrt_backward(grad, cov, trace, iterates, n_iter, precision)


def _backward_fake(grad: Tensor, cov: Tensor, *_: Any) -> Tensor:
    return cov.new_empty(cov.shape)


_root = define(
    "newton_schulz_sqrt(Tensor cov, int n_iter, bool keep_iterates, str precision, str backend)"
    " -> (Tensor root, Tensor trace, Tensor iterates)",
    _forward,
    _forward_fake,
)
_root_backward = define(
    "newton_schulz_sqrt_backward(Tensor grad, Tensor cov, Tensor trace, Tensor iterates, int n_iter,"
    " str precision, str backend) -> Tensor grad_cov",
    _backward,
    _backward_fake,
)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    cov, *ctx.options = inputs
    _, trace, iterates = output
    save(ctx, cov, trace, iterates)
    ctx.mark_non_differentiable(trace, iterates)


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    n_iter, _keep, precision, backend = ctx.options
    grad_cov = newton_schulz_sqrt_backward(grad, *ctx.saved_tensors, n_iter, precision, backend)
    return grad_cov, None, None, None, None


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, cov, _trace, _iterates, ctx.n_iter, _precision, _backend = inputs
    save(ctx, grad, cov)


def _differentiate_twice(ctx: Any, tangent: Tensor | None) -> tuple[Tensor | None, ...]:
    if tangent is None:
        return (None,) * 7
    n_iter = ctx.n_iter

    def root(cov: Tensor) -> Tensor:
        return reference.newton_schulz_sqrt(cov, n_iter)

    grad_grad, grad_cov = differentiate_backward(root, (tangent,), *ctx.saved_tensors)
    return grad_grad, grad_cov, None, None, None, None, None


newton_schulz_sqrt = differentiable(_root, _differentiate, _save_for_backward)
newton_schulz_sqrt_backward = differentiable(_root_backward, _differentiate_twice, _save_for_double_backward)
