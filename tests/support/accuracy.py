"""Pooling of one backend held against exact values in float64, and the dtypes that all of them are held with."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcp_kernels import (
    fused_gcp,
    reference,
)
from gcp_kernels.ops import backends
from tests.support import oracle, tolerances

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# A covariance has the square of the features' scale, out of the range of float16 at the ends.
NOT_FOR_FLOAT16_COVARIANCE = ("large_scale", "small_scale")


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def skip_unless_it_runs(backend: str, operation: str, x: Tensor) -> None:
    reason = backends.BACKENDS[backend].why_not(operation, x)
    if reason is not None:
        pytest.skip(f"{backend} cannot run {operation} on {x.dtype} {tuple(x.shape)}: {reason}")
    b, c, m = x.shape
    if backend == "triton" and x.device.type == "cpu":
        if b * c > (130 if x.dtype == torch.float32 else 20):
            pytest.skip("takes minutes in Triton's interpreter; test_triton_kernels.py has larger sizes")
        if x.dtype == torch.bfloat16 and m <= 2:
            pytest.skip("Triton's interpreter cuts to bfloat16 where a GPU rounds, and so few numbers average nothing")


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Compute both where the test runs; the input must be unchanged afterwards."""
    leaf = x.clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, grad)
    assert torch.equal(leaf, x), "the input was changed"
    assert value.dtype == gradient.dtype == x.dtype
    assert gradient.shape == x.shape
    return value.detach(), gradient


def upstream(c: int, output: str, b: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw an upstream gradient for an output, rounded to ``dtype``, and give it as a float64 matrix too."""
    if output == "full":
        grad = torch.randn(b, c, c).to(dtype)
        return grad, grad.double()
    grad = torch.randn(b, c * (c + 1) // 2).to(dtype)
    return grad, oracle.triangle_grad(grad.double(), c)


def check_pooling(x: Tensor, backend: str, device: str, *, n_iter: int = 5, precision: str | None = None) -> None:
    """Check fused_gcp of ``x`` for both outputs: as accurate as unfused, and for float32 as promised."""
    skip_unless_it_runs(backend, "isqrt_pool", x.to(device))
    b, c, _ = x.shape
    for output in ("full", "triu") if c <= 64 else ("triu",):
        grad, grad_matrix = upstream(c, output, b, x.dtype)
        keep = oracle.triangle if output == "triu" else torch.Tensor.contiguous
        keep_reference = reference.triu_vec if output == "triu" else torch.Tensor.contiguous

        def pool(x: Tensor, output: str = output) -> Tensor:
            return fused_gcp(x, n_iter=n_iter, output=output, precision=precision, backend=backend)

        def pool_unfused(x: Tensor, keep: Callable[[Tensor], Tensor] = keep_reference) -> Tensor:
            return keep(reference.isqrt_pool(x, n_iter))

        value, gradient = value_and_gradient(pool, x.to(device), grad.to(device))
        unfused = tolerances.unfused(pool_unfused, x, grad, precision)
        exact = keep(oracle.isqrt_pool(x, n_iter)), oracle.isqrt_pool_grad(x, n_iter, grad_matrix)
        for what, ours, theirs, truth in zip(("value", "gradient"), (value, gradient), unfused, exact, strict=True):
            tolerances.assert_as_accurate(ours, theirs, truth, f"{what}, output={output!r}")
            if x.dtype == torch.float32:
                tolerances.assert_promise_kept(ours, truth, precision or "high", f"{what}, output={output!r}")
