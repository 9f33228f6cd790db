"""Cross-covariance, the normalisation of its singular values, and element-wise power: against their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gcp_kernels import covariance_pool, cross_covariance_pool, elementwise_power, singular_value_power
from tests.support import tolerances

pytestmark = pytest.mark.versions


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("n", "wq", "wk"), [(1, 2, 3), (2, 1, 1), (7, 4, 4), (196, 24, 14)])
def test_cross_covariance_is_the_definition(n: int, wq: int, wk: int, device: str) -> None:
    q, k = double(2, 3, n, wq) + 5, double(2, 3, n, wk) - 2
    exact = torch.einsum("bhnq,bhnk->bhqk", q - q.mean(2, keepdim=True), k - k.mean(2, keepdim=True)) / n
    ours = cross_covariance_pool(q.to(device), k.to(device))
    if n == 1:
        assert not ours.any()
    else:
        tolerances.assert_same_float64(ours, exact, "heads")
        tolerances.assert_same_float64(cross_covariance_pool(q[:, 0], k[:, 0]), exact[:, 0], "one head")


def test_cross_covariance_with_itself_is_the_covariance() -> None:
    tokens = double(3, 20, 6)
    expected = covariance_pool(tokens, channel_dim=-1)
    tolerances.assert_same_float64(cross_covariance_pool(tokens, tokens), expected, "covariance")


def test_cross_covariance_does_not_depend_on_order_or_mean_of_the_tokens() -> None:
    q, k = double(2, 9, 4), double(2, 9, 3)
    order = torch.randperm(9)
    shifted = cross_covariance_pool(q[:, order] + 3, k[:, order] - 7)
    tolerances.assert_same_float64(shifted, cross_covariance_pool(q, k), "cross-covariance")


def test_equal_tokens_give_exact_zeros() -> None:
    q = torch.full((2, 9, 4), 0.1, requires_grad=True)
    k = torch.randn(2, 9, 3)
    pooled = cross_covariance_pool(q, k)
    assert not pooled.any()
    assert torch.autograd.grad(pooled.sum(), q)[0].any(), "the gradient is not zero: it depends on k"


def test_a_mean_of_1000_costs_no_accuracy_in_float32() -> None:
    q, k = (torch.randn(2, 50, w) + 1000 for w in (8, 6))
    exact = cross_covariance_pool(q.double(), k.double())
    tolerances.assert_promise_kept(cross_covariance_pool(q, k), exact, "high", "cross-covariance")


def test_cross_covariance_numerical_derivatives() -> None:
    q, k = double(2, 2, 5, 3).requires_grad_(), double(2, 2, 5, 2).requires_grad_()
    assert gradcheck(cross_covariance_pool, (q, k))
    assert gradgradcheck(cross_covariance_pool, (q, k))


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1])
def test_singular_values_when_the_start_is_the_first_singular_vector(alpha: float, device: str) -> None:
    """Then the power iteration is exact: s_1 to the power alpha, the others divided by s_1^(1 - alpha) + 1e-5."""
    m = double(3, 6, 4)
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    ours = singular_value_power(m.to(device), 7 * vh[:, 0].to(device), alpha)
    largest = s[:, :1]
    expected = torch.cat([largest**alpha, s[:, 1:] / (largest ** (1 - alpha) + 1e-5)], dim=1)
    tolerances.assert_same_float64(ours, (u * expected[:, None, :]) @ vh, "normalised")


def by_the_formula(m: Tensor, start: Tensor, alpha: float) -> Tensor:
    """Compute for one matrix, in the words of the docstring."""
    u = m @ start / (m @ start).norm()
    s = (m.T @ u).norm()
    top = s * torch.outer(u, m.T @ u / s)
    return s**alpha * torch.outer(u, m.T @ u / s) + (m - top) / (s ** (1 - alpha) + 1e-5)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1])
def test_singular_value_power_is_its_formula(alpha: float) -> None:
    m, start = double(2, 3, 5, 4), double(3, 4)
    expected = torch.stack(
        [torch.stack([by_the_formula(m[b, h], start[h], alpha) for h in range(3)]) for b in range(2)]
    )
    tolerances.assert_same_float64(singular_value_power(m, start, alpha), expected, "heads")
    tolerances.assert_same_float64(singular_value_power(m[0, 0], start[0], alpha), expected[0, 0], "one matrix")
    for shared in (start[0], start[:1], start[0].expand(2, 3, 4)):
        one = singular_value_power(m, shared, alpha)
        exact = torch.stack([torch.stack([by_the_formula(m[b, h], start[0], alpha) for h in range(3)]) for b in (0, 1)])
        tolerances.assert_same_float64(one, exact, "one start for all")


@pytest.mark.parametrize("exponent", [-22, 22])
def test_squares_beyond_the_range_of_float32(exponent: int) -> None:
    """Neither a tiny nor a huge matrix or start vector, whose squares float32 does not hold, costs a digit."""
    m, start = torch.randn(2, 5, 4), torch.randn(4)
    for matrix, vector in ((m * 10.0**exponent, start), (m, start * 10.0**exponent)):
        leaves = (matrix.requires_grad_(), vector.requires_grad_())
        exact = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
        values = [singular_value_power(*pair, 0.5) for pair in (leaves, exact)]
        tolerances.assert_promise_kept(values[0].detach(), values[1].detach(), "high", "value")
        weight = torch.randn(2, 5, 4)
        found = torch.autograd.grad((values[0] * weight).sum(), leaves[0])
        expected = torch.autograd.grad((values[1] * weight).sum(), exact[0])
        tolerances.assert_promise_kept(found[0], expected[0], "high", "gradient")


def test_length_of_the_start_vector_has_no_effect() -> None:
    m, start = double(2, 5, 4), double(4)
    for factor in (1e-3, 1e3):
        scaled = singular_value_power(m, factor * start)
        tolerances.assert_same_float64(scaled, singular_value_power(m, start), "normalised")


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1])
def test_singular_value_power_numerical_derivatives(alpha: float) -> None:
    m, start = double(2, 2, 3, 4).requires_grad_(), double(2, 4).requires_grad_()
    assert gradcheck(lambda m, start: singular_value_power(m, start, alpha), (m, start))
    assert gradgradcheck(lambda m, start: singular_value_power(m, start, alpha), (m, start))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matrix_that_annihilates_the_start_vector(dtype: torch.dtype, device: str) -> None:
    """A zero matrix, and one whose rows are orthogonal to it: zeros with zero gradients, no neighbour hurt."""
    m = torch.randn(4, 3, 2, device=device).to(dtype)
    m[0] = 0
    m[2, :, 0] = 0
    start = torch.tensor([1.0, 0.0], device=device, dtype=dtype)
    leaves = m.requires_grad_(), start.requires_grad_()
    value = singular_value_power(*leaves)
    gradients = torch.autograd.grad(value, leaves, torch.randn_like(value), create_graph=True)
    second = torch.autograd.grad(sum((gradient**2).sum() for gradient in gradients), leaves)
    for tensor in (value, *gradients, *second):
        assert tensor.isfinite().all()
    for i in (0, 2):
        assert not value[i].any()
        assert not gradients[0][i].any()
        assert value[i + 1].any()
        assert gradients[0][i + 1].any()
    alone = singular_value_power(m[:1], start)
    assert not any(gradient.any() for gradient in torch.autograd.grad(alone.sum(), leaves))


def test_start_vector_has_a_gradient_in_its_own_dtype() -> None:
    m, start = torch.randn(2, 5, 4).half(), torch.randn(4, requires_grad=True)
    value = singular_value_power(m, start)
    (gradient,) = torch.autograd.grad(value.float().square().sum(), start)
    assert value.dtype == torch.float16
    assert gradient.dtype == torch.float32
    assert gradient.any()


def test_elementwise_power_is_the_definition(device: str) -> None:
    v = double(3, 2, 5)
    v[0, 0, 0] = 0
    roots = [
        [math.copysign(math.sqrt(abs(s) + 1e-8), s) if s else 0.0 for s in row] for row in v.flatten(0, 1).tolist()
    ]
    exact = torch.tensor([[root / math.hypot(*row) for root in row] for row in roots], dtype=torch.float64)
    ours = elementwise_power(v.to(device))
    tolerances.assert_same_float64(ours, exact.view_as(v), "normalised")
    tolerances.assert_same_float64(ours.norm(dim=-1), torch.ones(3, 2, dtype=torch.float64), "lengths")


def test_elementwise_power_numerical_derivatives() -> None:
    v = double(3, 5).requires_grad_()
    assert gradcheck(elementwise_power, v)
    assert gradgradcheck(elementwise_power, v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_zero_vector_and_zero_elements_have_finite_gradients(dtype: torch.dtype, device: str) -> None:
    """1e-8 is zero in float16, where the root of zero has an infinite derivative."""
    v = torch.zeros(3, 4, dtype=dtype, device=device)
    v[1] = torch.tensor([0.0, 1.0, -4.0, 0.0])
    v.requires_grad_()
    value = elementwise_power(v)
    (gradient,) = torch.autograd.grad(value, v, torch.ones_like(value), create_graph=True)
    (second,) = torch.autograd.grad((gradient**2).sum(), v)
    for tensor in (value, gradient, second):
        assert tensor.isfinite().all()
        assert not tensor[::2].any()
    assert value[1].tolist() == pytest.approx([0, 5**-0.5, -2 * 5**-0.5, 0], rel=1e-2)
