"""Operators matrix_power and matrix_log with their backward passes: functions of the eigenvalues of (B, C, C) matrices.

The eigenvalues that are kept for the backward pass are those that the function was applied to, after small ones were
taken as zero and, for the logarithm, eps was added.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gcp_kernels import backends, reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_floating, check_positive, check_shape

from .library import define, differentiable, save
from .second_order import differentiate_backward


def _matrix_function(
    name: str, option: str, reference_function: Callable[[Tensor, float], Tensor]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Define the operators ``name`` and ``name``_backward, whose one number is called ``option``."""

    def forward(cov: Tensor, number: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        check_floating("cov", cov)
        check_positive(option, number)
        return getattr(backends.select(name, cov, backend), name)(cov, number)

    def forward_fake(cov: Tensor, number: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
        b, c, _ = cov.shape
        dtype = accumulation_dtype(cov.dtype)
        return cov.new_empty(b, c, c), cov.new_empty(b, c, dtype=dtype), cov.new_empty(b, c, c, dtype=dtype)

    def backward(
        grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, number: float, backend: str
    ) -> Tensor:
        b, c, _ = cov.shape
        check_shape("grad", grad, (b, c, c))
        check_shape("eigenvalues", eigenvalues, (b, c))
        check_shape("eigenvectors", eigenvectors, (b, c, c))
        module = backends.select(name, cov, backend)
        return getattr(module, f"{name}_backward")(grad, cov, eigenvalues, eigenvectors, number)

    def backward_fake(grad: Tensor, cov: Tensor, *_: Any) -> Tensor:
        return cov.new_empty(cov.shape)

    def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        cov, *ctx.options = inputs
        _, eigenvalues, eigenvectors = output
        save(ctx, cov, eigenvalues, eigenvectors)
        ctx.mark_non_differentiable(eigenvalues, eigenvectors)

    def differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 3
        return differentiable_backward(grad, *ctx.saved_tensors, *ctx.options), None, None

    def save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, cov, _eigenvalues, _eigenvectors, ctx.number, _backend = inputs
        save(ctx, grad, cov)

    def differentiate_twice(ctx: Any, tangent: Tensor | None) -> tuple[Tensor | None, ...]:
        if tangent is None:
            return (None,) * 6
        number = ctx.number

        def function(cov: Tensor) -> Tensor:
            return reference_function(cov, number)

        grad_grad, grad_cov = differentiate_backward(function, (tangent,), *ctx.saved_tensors)
        return grad_grad, grad_cov, None, None, None, None

    operator = define(
        f"{name}(Tensor cov, float {option}, str backend) -> (Tensor result, Tensor eigenvalues, Tensor eigenvectors)",
        forward,
        forward_fake,
    )
    backward_operator = define(
        f"{name}_backward(Tensor grad, Tensor cov, Tensor eigenvalues, Tensor eigenvectors, float {option},"
        " str backend) -> Tensor grad_cov",
        backward,
        backward_fake,
    )
    differentiable_backward = differentiable(backward_operator, differentiate_twice, save_for_double_backward)
    return differentiable(operator, differentiate, save_for_backward), differentiable_backward


matrix_power, matrix_power_backward = _matrix_function("matrix_power", "alpha", reference.matrix_power)
matrix_log, matrix_log_backward = _matrix_function("matrix_log", "eps", reference.matrix_log)
