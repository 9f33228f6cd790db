"""The normalisations on a GPU: the same values as on the CPU, and graphs and no waiting where nothing is decomposed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcp_kernels import (
    cross_covariance_pool,
    elementwise_power,
    matrix_log,
    matrix_power,
    newton_schulz_inverse_sqrt,
    singular_value_power,
)
from gcp_kernels.nn import MultiHeadCrossCovariance
from tests.support import inputs, tolerances

pytestmark = pytest.mark.gpu


def _heads(x: Tensor) -> Tensor:
    """Normalise the cross-covariances of two halves of the channels of (B, C, C) matrices."""
    q, k = x.chunk(2, dim=-1)
    return singular_value_power(cross_covariance_pool(q, k), k[0, 0])


# Functions of (B, 32, 32) covariances. An eigen-decomposition waits for the device, the others do not.
WITHOUT_WAITING: dict[str, Callable[[Tensor], Tensor]] = {
    "newton_schulz_inverse_sqrt": newton_schulz_inverse_sqrt,
    "elementwise_power": lambda x: elementwise_power(x.flatten(1)),
    "cross_covariance": _heads,
}
FUNCTIONS = {**WITHOUT_WAITING, "matrix_power": matrix_power, "matrix_log": matrix_log}


def run(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = function(x)
    weights = torch.linspace(-1, 1, value.numel(), device=x.device).view_as(value).to(value)
    (gradient,) = torch.autograd.grad(value, x, weights)
    return value.detach(), gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gpu_and_cpu_agree(name: str, dtype: torch.dtype) -> None:
    cov = inputs.covariance_matrices(4, 32)
    exact = run(FUNCTIONS[name], cov)
    for what, ours, right in zip(
        ("value", "gradient"), run(FUNCTIONS[name], cov.to("cuda", dtype)), exact, strict=True
    ):
        if dtype == torch.float64:
            tolerances.assert_same_float64(ours, right, what)
        else:
            tolerances.assert_promise_kept(ours, right, "high", what)


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_host_never_waits_for_the_device(name: str) -> None:
    cov = inputs.covariance_matrices(4, 32, torch.float32).to("cuda")
    run(FUNCTIONS[name], cov)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(FUNCTIONS[name], cov)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graph_of_the_transformer_pooling() -> None:
    pool = MultiHeadCrossCovariance(32, 4, 8).to("cuda")
    static = torch.randn(3, 20, 32, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(pool(static).square().sum(), list(pool.parameters()))
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = pool(static)
        gradients = torch.autograd.grad(value.square().sum(), list(pool.parameters()))
    for _ in range(2):
        static.copy_(torch.randn_like(static))
        graph.replay()
        expected = pool(static)
        torch.testing.assert_close(value, expected)
        exact = torch.autograd.grad(expected.square().sum(), list(pool.parameters()))
        torch.testing.assert_close(gradients, exact)
