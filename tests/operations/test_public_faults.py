"""Faults of widely copied public implementations of iSQRT-COV pooling, each with a test that it is not ours."""

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, triu_vec
from gcp_kernels.nn import GCP
from tests.support import inputs, oracle, tolerances


def forward_and_backward(x: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = fused_gcp(leaf, **options)
    (gradient,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    return value.detach(), gradient


def test_no_centring_matrix_of_all_positions_by_all_positions() -> None:
    """A 250x100 image has 25,000 positions; its centring matrix, 2.5 GB in float32, is never made."""
    x = torch.randn(1, 4, 250, 100, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        fused_gcp(x).sum().backward()
        covariance_pool(x).sum().backward()
    largest = max(event.cpu_memory_usage for event in profiler.events())
    assert largest > 0, "the profiler saw no allocation"
    assert largest <= 20 * x.numel() * x.element_size(), f"{largest} bytes allocated at once"


def test_no_loop_over_the_batch() -> None:
    """Forward and backward of 64 samples take about as many operations as of two."""

    def operations(b: int) -> int:
        x = torch.randn(b, 4, 9, requires_grad=True)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            fused_gcp(x).sum().backward()
        return len(profiler.events())

    operations(2)  # what happens only once
    assert operations(64) < 1.5 * operations(2)


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (2, 8, 1), (2, 8, 7, 7)])
def test_no_nan_for_a_constant_or_1x1_feature_map(shape: tuple[int, ...]) -> None:
    value, gradient = forward_and_backward(torch.full(shape, 0.3))
    assert not value.any()
    assert not gradient.any()
    layer = GCP(8, dim=4).train(shape[-1] > 1)  # in training one position is refused
    x = torch.full(shape, 0.3, requires_grad=True)
    layer(x).sum().backward()
    assert not x.grad.isnan().any()
    assert not any(parameter.grad.isnan().any() for parameter in layer.parameters())


def test_no_wrong_gradient_for_an_asymmetric_upstream_gradient() -> None:
    """The gradient of <G, out> with G strictly upper triangular, as triangles of several layers give it."""
    x = inputs.relu_features(2, 6, 9).requires_grad_()
    cov = inputs.covariance_matrices(2, 6).requires_grad_()
    for grad in (torch.randn(2, 6, 6, dtype=torch.float64).triu(1), torch.randn(2, 6, 6, dtype=torch.float64).tril(-1)):
        for function, argument, exact in (
            (lambda x: fused_gcp(x, output="full"), x, oracle.isqrt_pool_grad(x.detach(), 5, grad)),
            (covariance_pool, x, oracle.covariance_pool_grad(x.detach(), grad)),
            (newton_schulz_sqrt, cov, oracle.newton_schulz_sqrt_grad(cov.detach(), 5, grad)),
        ):
            (gradient,) = torch.autograd.grad(function(argument), argument, grad)
            tolerances.assert_same_float64(gradient, exact, "gradient")


def test_no_undefined_variable_at_one_iteration() -> None:
    x = inputs.relu_features(2, 6, 9).requires_grad_()
    value = fused_gcp(x, n_iter=1, output="full")
    grad = torch.randn_like(value)
    tolerances.assert_same_float64(value, oracle.isqrt_pool(x.detach(), 1), "value")
    (gradient,) = torch.autograd.grad(value, x, grad)
    tolerances.assert_same_float64(gradient, oracle.isqrt_pool_grad(x.detach(), 1, grad), "gradient")


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
def test_no_crash_in_backward_under_half_precision_autocast(autocast_dtype: torch.dtype) -> None:
    layer = GCP(8, dim=4)
    with torch.autocast("cpu", dtype=autocast_dtype):
        loss = layer(torch.randn(3, 8, 5, 5)).float().pow(2).sum()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_no_lower_triangle_order() -> None:
    m = torch.arange(9.0).view(3, 3)
    assert triu_vec(m).tolist() == [0, 1, 2, 4, 5, 8]
    x = inputs.relu_features(1, 3, 9)
    out = oracle.isqrt_pool(x, 5)[0]
    expected = torch.stack([out[0, 0], out[0, 1], out[0, 2], out[1, 1], out[1, 2], out[2, 2]])
    tolerances.assert_same_float64(fused_gcp(x)[0], expected, "triangle")


def test_no_norm_over_the_whole_batch() -> None:
    """Sample 0 and its gradient are the same in a batch with samples a million times as large."""
    x = inputs.relu_features(4, 6, 9)
    value, gradient = forward_and_backward(x)
    x[1:] *= 1e6
    other_value, other_gradient = forward_and_backward(x)
    assert torch.equal(value[0], other_value[0])
    assert torch.equal(gradient[0], other_gradient[0])


def test_no_change_of_the_callers_tensor() -> None:
    x = inputs.relu_features(2, 6, 9)
    before, version = x.clone(), x._version
    forward_and_backward(x)
    fused_gcp(x)
    covariance_pool(x)
    assert torch.equal(x, before)
    assert x._version == version
    cov = inputs.covariance_matrices(2, 6)
    before, version = cov.clone(), cov._version
    newton_schulz_sqrt(cov)
    assert torch.equal(cov, before)
    assert cov._version == version


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_epsilon_that_is_zero_in_half_precision(dtype: torch.dtype) -> None:
    """Features of 1e-4: their squares are zero in float16, and so is an epsilon of 1e-8, which would change them."""
    x = (1e-4 * inputs.relu_features(2, 6, 49)).to(dtype)
    value, gradient = forward_and_backward(x, output="full")
    ones = torch.ones(2, 6, 6, dtype=torch.float64)
    exact_gradient = oracle.isqrt_pool_grad(x, 5, ones)
    tolerances.assert_rounded(value, oracle.isqrt_pool(x, 5), "value")
    tolerances.assert_promise_kept(gradient, exact_gradient, "fast", "gradient")
    zeros, zero_gradient = forward_and_backward(torch.zeros_like(x))
    assert not zeros.any()
    assert not zero_gradient.any()
