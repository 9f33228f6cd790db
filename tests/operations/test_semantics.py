"""What the functions promise in special cases, one test per row of that table; layouts have a file of their own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, reference, triu_unvec, triu_vec
from tests.support import inputs, tolerances

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Functions of (B, C, M) features, (B, C, C) results; and of a triangle.
POOLS: dict[str, Callable[..., Tensor]] = {
    "fused_gcp_triu": fused_gcp,
    "fused_gcp_full": lambda x: fused_gcp(x, output="full"),
    "covariance_pool": covariance_pool,
}


def gradient_of(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone().requires_grad_()
    value = function(leaf)
    grad = torch.randn_like(value) if grad is None else grad
    (gradient,) = torch.autograd.grad(value, leaf, grad)
    return value.detach(), gradient


def test_upper_triangle_order_is_row_major_without_a_factor(device: str) -> None:
    x = inputs.relu_features(2, 5, 9).to(device)
    for pool in (fused_gcp, covariance_pool):
        full, triangle = pool(x, output="full"), pool(x, output="triu")
        rows = [full[:, i, j] for i in range(5) for j in range(i, 5)]
        tolerances.assert_same_float64(triangle, torch.stack(rows, dim=1), "triangle")
        tolerances.assert_same_float64(full, full.mT, "full matrix")
    m = torch.arange(16.0, device=device).view(4, 4)
    assert triu_vec(m).tolist() == [0, 1, 2, 3, 5, 6, 7, 10, 11, 15]
    assert triu_unvec(triu_vec(m)).tolist() == [[0, 1, 2, 3], [1, 5, 6, 7], [2, 6, 10, 11], [3, 7, 11, 15]]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("m", [1, 3, 49, 196])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_constant_sample_gives_exact_zeros_and_zero_gradient(
    dtype: torch.dtype, constant: float, m: int, device: str
) -> None:
    # Another constant in each channel; the middle sample varies, and must not be touched by its neighbours.
    x = (constant * torch.tensor([1.0, 0.7, 1.3, -1.1])).to(device, dtype)[None, :, None].repeat(3, 1, m)
    x[1] = torch.randn(4, m).to(x)
    for name, pool in POOLS.items():
        value, gradient = gradient_of(pool, x)
        assert not value[::2].any(), f"{name} of a constant sample"
        assert not gradient[::2].any(), f"{name}: gradient of a constant sample"
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        if m > 1:
            assert value[1].any()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES)
def test_matrix_of_trace_zero_gives_zeros_and_zero_gradient(dtype: torch.dtype, device: str) -> None:
    cov = torch.zeros(3, 4, 4, dtype=dtype, device=device)
    cov[1] = torch.eye(4)
    value, gradient = gradient_of(newton_schulz_sqrt, cov)
    assert not value[::2].any()
    assert not gradient[::2].any()
    assert value[1].diagonal().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("spread", [1e-7, 1e-12, 1e-19, 1e-20, 1e-21, 1e-22, 1e-23, 1e-30, 1e-38])
def test_nearly_constant_sample_is_finite(spread: float, device: str) -> None:
    """Where the squares of float32 features are subnormal or vanish, accuracy goes, but not to NaN or infinity."""
    x = spread * torch.randn(2, 4, 9, device=device)
    value, gradient = gradient_of(fused_gcp, x)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert value.abs().max() <= 10 * spread


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_or_infinity_stays_in_its_sample(dtype: torch.dtype, bad: float, name: str, device: str) -> None:
    x = torch.randn(3, 4, 9).to(device, dtype)
    grad = torch.randn_like(POOLS[name](x))
    clean = gradient_of(POOLS[name], x, grad)
    x[1, 2, 3] = bad
    for ours, undisturbed in zip(gradient_of(POOLS[name], x, grad), clean, strict=True):
        assert ours[1].isnan().any(), "the bad value was hidden"
        assert torch.equal(ours[::2], undisturbed[::2]), "the bad value reached another sample"
        if name != "covariance_pool":  # whose other channels do not depend on the bad one
            assert ours[1].isnan().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_or_infinity_in_a_matrix_stays_in_its_sample(bad: float, device: str) -> None:
    cov = inputs.covariance_matrices(3, 4, torch.float32).to(device)
    grad = torch.randn_like(cov)
    clean = gradient_of(newton_schulz_sqrt, cov, grad)
    cov[1, 2, 2] = bad
    for ours, undisturbed in zip(gradient_of(newton_schulz_sqrt, cov, grad), clean, strict=True):
        assert ours[1].isnan().all()
        assert torch.equal(ours[::2], undisturbed[::2])


@pytest.mark.parametrize("name", POOLS)
def test_nan_in_the_upstream_gradient_stays_in_its_sample(name: str, device: str) -> None:
    x = torch.randn(3, 4, 9, device=device)
    grad = torch.randn_like(POOLS[name](x))
    _, clean = gradient_of(POOLS[name], x, grad)
    grad[1].view(-1)[1] = float("nan")
    _, gradient = gradient_of(POOLS[name], x, grad)
    assert gradient[1].isnan().any()
    assert torch.equal(gradient[::2], clean[::2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batch_gives_empty_output_and_gradient(dtype: torch.dtype, device: str) -> None:
    features, matrix, vector = (0, 4, 3, 3), (0, 4, 4), (0, 10)
    for function, given, shape in (
        (fused_gcp, features, vector),
        (lambda x: fused_gcp(x, output="full"), features, matrix),
        (covariance_pool, features, matrix),
        (lambda x: covariance_pool(x, output="triu"), features, vector),
        (newton_schulz_sqrt, matrix, matrix),
        (triu_vec, matrix, vector),
        (triu_unvec, vector, matrix),
    ):
        x = torch.empty(given, dtype=dtype, device=device)
        value, gradient = gradient_of(function, x)
        assert value.shape == shape
        assert gradient.shape == x.shape
        assert value.dtype == gradient.dtype == dtype


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("precision", [None, "fast", "high"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_output_dtype_is_that_of_x(dtype: torch.dtype, precision: str | None, backend: str | None, device: str) -> None:
    x = torch.randn(2, 4, 9, device=device).to(dtype)
    for function in (fused_gcp, covariance_pool):
        value, gradient = gradient_of(lambda x, f=function: f(x, precision=precision, backend=backend), x)
        assert value.dtype == gradient.dtype == dtype
    value, gradient = gradient_of(
        lambda cov: newton_schulz_sqrt(cov, precision=precision, backend=backend), x[:, :, :4] @ x[:, :, :4].mT
    )
    assert value.dtype == gradient.dtype == dtype


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 6, 9), (40, 32, 49)])
def test_two_runs_are_bitwise_equal(shape: tuple[int, ...], dtype: torch.dtype, name: str, device: str) -> None:
    x = torch.randn(shape).to(device, dtype)
    grad = torch.randn_like(POOLS[name](x))
    first, second = (gradient_of(POOLS[name], x, grad) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_does_not_depend_on_the_values_of_others(dtype: torch.dtype, name: str, device: str) -> None:
    x = torch.randn(6, 8, 20).to(device, dtype)
    grad = torch.randn_like(POOLS[name](x))
    alone = gradient_of(POOLS[name], x, grad)
    x[1:] *= 100
    grad[1:] *= 1000
    in_company = gradient_of(POOLS[name], x, grad)
    assert torch.equal(alone[0][0], in_company[0][0])
    assert torch.equal(alone[1][0], in_company[1][0])


@pytest.mark.parametrize("name", POOLS)
def test_sample_does_not_depend_on_the_size_of_the_batch(name: str, device: str) -> None:
    x = torch.randn(7, 8, 20, dtype=torch.float64, device=device)
    grad = torch.randn_like(POOLS[name](x))
    batch = gradient_of(POOLS[name], x, grad)
    for i in range(7):
        alone = gradient_of(POOLS[name], x[i : i + 1], grad[i : i + 1])
        for in_batch, by_itself in zip(batch, alone, strict=True):
            tolerances.assert_same_float64(in_batch[i : i + 1], by_itself, f"sample {i}")


def test_gradient_of_a_matrix_is_symmetric_and_its_skew_part_is_ignored(device: str) -> None:
    cov = inputs.covariance_matrices(2, 5).to(device)
    skew = torch.randn_like(cov).triu(1)
    value, gradient = gradient_of(newton_schulz_sqrt, cov + (skew - skew.mT), grad := torch.randn_like(cov))
    plain_value, plain_gradient = gradient_of(newton_schulz_sqrt, cov, grad)
    tolerances.assert_same_float64(value, plain_value.cpu(), "value")
    tolerances.assert_same_float64(gradient, plain_gradient.cpu(), "gradient")
    tolerances.assert_same_float64(gradient, gradient.mT, "gradient")


def test_input_changed_before_backward_is_an_error_and_not_a_wrong_gradient(device: str) -> None:
    x = torch.randn(2, 4, 9, device=device, requires_grad=True)
    features = x * 1
    value = fused_gcp(features)
    features.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_backward_can_run_twice(device: str) -> None:
    x = torch.randn(2, 4, 9, device=device, requires_grad=True)
    value = fused_gcp(x)
    grad = torch.randn_like(value)
    first = torch.autograd.grad(value, x, grad, retain_graph=True)[0]
    (second,) = torch.autograd.grad(value, x, grad)
    assert torch.equal(first, second)


def test_no_gradient_is_asked_for_where_none_is_wanted(device: str) -> None:
    x = torch.randn(2, 4, 9, device=device, requires_grad=True)
    expected = fused_gcp(x).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            value = fused_gcp(x)
        assert not value.requires_grad
        torch.testing.assert_close(value, expected)
    assert not fused_gcp(x.detach()).requires_grad


def test_default_precision_follows_torch(device: str) -> None:
    """float32 is "high" while torch's own products are, and "fast" once TF32 is allowed.

    On a CPU the two are the same products, so only a GPU can fail this; test_precision.py checks the choice itself.
    """
    x = inputs.relu_features(2, 32, 49, torch.float32).to(device)
    before = torch.get_float32_matmul_precision()
    try:
        for torch_precision, ours in (("highest", "high"), ("high", "fast"), ("medium", "fast")):
            torch.set_float32_matmul_precision(torch_precision)
            assert torch.equal(fused_gcp(x), fused_gcp(x, precision=ours)), torch_precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_reference_backend_gives_the_reference(device: str) -> None:
    x = inputs.relu_features(2, 5, 9).to(device)
    assert torch.equal(fused_gcp(x, output="full", backend="reference"), reference.isqrt_pool(x))
    assert torch.equal(covariance_pool(x, backend="reference"), reference.covariance_pool(x))
