"""Covariance pooling with a scale for each channel: inputs, exact values, and the unfused computation."""

from collections.abc import Callable

import torch
from torch import Tensor

from gcp_kernels import covariance_pool, reference
from tests.support import oracle, tolerances

Pool = Callable[[Tensor, Tensor], Tensor]
OUTPUTS = ("full", "triu")
NAMES = ("value", "gradient by x", "gradient by the scale")


def scales(b: int, c: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw numbers of either sign, every fifth zero: a gate times the mask of dropped channels."""
    scale = torch.randn(b, c, dtype=torch.float64).to(dtype)
    scale[:, 4::5] = 0
    return scale


def pool_by(backend: str | None, output: str = "full", precision: str | None = None) -> Pool:
    return lambda x, scale: covariance_pool(x, scale=scale, output=output, precision=precision, backend=backend)


def exact_values(x: Tensor, scale: Tensor, grad: Tensor, output: str) -> tuple[Tensor, ...]:
    """Compute value and both gradients by the oracle; ``grad`` is the upstream gradient as a (B, C, C) matrix."""
    cov = oracle.covariance_pool(x, scale)
    return (
        oracle.triangle(cov) if output == "triu" else cov,
        oracle.covariance_pool_grad(x, grad, scale),
        oracle.covariance_pool_scale_grad(x, grad, scale),
    )


def unfused_values(x: Tensor, scale: Tensor, grad: Tensor, output: str, precision: str | None) -> tuple[Tensor, ...]:
    """Compute of two inputs what ``tolerances.unfused`` computes of one; gradients are not rounded."""
    dtype = tolerances.accumulation_dtype(x.dtype)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, scale)]
    with tolerances.unfused_arithmetic(x.dtype, precision):
        cov = reference.covariance_pool(*leaves)
        value = oracle.triangle(cov) if output == "triu" else cov
        gradients = torch.autograd.grad(value, leaves, grad.to(dtype))
    return value.detach(), *gradients


def value_and_gradients(
    pool: Pool, x: Tensor, scale: Tensor, grad: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute both gradients where the test runs; the inputs must be unchanged afterwards."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, scale)]
    value = pool(*leaves)
    gradients = torch.autograd.grad(value, leaves, torch.randn_like(value) if grad is None else grad)
    for leaf, given, gradient in zip(leaves, (x, scale), gradients, strict=True):
        assert torch.equal(leaf.detach().nan_to_num(), given.detach().nan_to_num()), "an input was changed"
        assert gradient.dtype == given.dtype
        assert gradient.shape == given.shape
    assert value.dtype == x.dtype
    return value.detach(), *gradients
