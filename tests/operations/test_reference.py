"""The reference against the eigen-decomposition oracle, and its derivatives against plain numerical ones."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gcp_kernels import reference
from tests.support import inputs, oracle, tolerances

ITERATIONS = (1, 2, 3, 5, 7)
CHANNELS = (1, 2, 5, 16)
POSITIONS = (1, 2, 4, 30)


@pytest.mark.parametrize("c", CHANNELS)
@pytest.mark.parametrize("m", POSITIONS)
def test_covariance_and_its_gradient_are_the_definition(c: int, m: int) -> None:
    x = inputs.relu_features(3, c, m).requires_grad_()
    grad = torch.randn(3, c, c, dtype=torch.float64)
    cov = reference.covariance_pool(x)
    (gradient,) = torch.autograd.grad(cov, x, grad)
    tolerances.assert_same_float64(cov, oracle.covariance_pool(x.detach()), "covariance")
    tolerances.assert_same_float64(gradient, oracle.covariance_pool_grad(x.detach(), grad), "gradient")


def test_covariance_of_two_positions_by_hand() -> None:
    x = torch.tensor([[[1.0, 3.0], [5.0, 1.0]]], dtype=torch.float64)
    assert reference.covariance_pool(x).tolist() == [[[1.0, -2.0], [-2.0, 4.0]]]


@pytest.mark.parametrize("n_iter", ITERATIONS)
@pytest.mark.parametrize("c", CHANNELS)
def test_newton_schulz_is_the_scalar_iteration_on_eigenvalues(n_iter: int, c: int) -> None:
    cov = inputs.covariance_matrices(3, c).requires_grad_()
    grad = torch.randn(3, c, c, dtype=torch.float64)
    root = reference.newton_schulz_sqrt(cov, n_iter)
    (gradient,) = torch.autograd.grad(root, cov, grad)
    exact = oracle.newton_schulz_sqrt_grad(cov.detach(), n_iter, grad)
    tolerances.assert_same_float64(root, oracle.newton_schulz_sqrt(cov.detach(), n_iter), "root")
    tolerances.assert_same_float64(gradient, exact, "gradient")


@pytest.mark.parametrize("n_iter", ITERATIONS)
@pytest.mark.parametrize("c", CHANNELS)
@pytest.mark.parametrize("m", POSITIONS)
def test_isqrt_pool_and_its_gradient_are_the_oracle(n_iter: int, c: int, m: int) -> None:
    x = inputs.relu_features(3, c, m).requires_grad_()
    grad = torch.randn(3, c, c, dtype=torch.float64)
    pooled = reference.isqrt_pool(x, n_iter)
    (gradient,) = torch.autograd.grad(pooled, x, grad)
    tolerances.assert_same_float64(pooled, oracle.isqrt_pool(x.detach(), n_iter), "pooled")
    tolerances.assert_same_float64(gradient, oracle.isqrt_pool_grad(x.detach(), n_iter, grad), "gradient")


@pytest.mark.parametrize("spectrum", inputs.SPECTRA)
def test_every_spectrum(spectrum: str) -> None:
    x = inputs.SPECTRA[spectrum](2, 12, 9, torch.float64).requires_grad_()
    grad = torch.randn(2, 12, 12, dtype=torch.float64)
    pooled = reference.isqrt_pool(x)
    (gradient,) = torch.autograd.grad(pooled, x, grad)
    for actual, exact in (
        (pooled, oracle.isqrt_pool(x.detach(), 5)),
        (gradient, oracle.isqrt_pool_grad(x.detach(), 5, grad)),
    ):
        assert tolerances.relative_error(actual, exact) <= tolerances.FLOAT64_AGREEMENT


def test_one_iteration_by_hand() -> None:
    # A = diag(1/4, 3/4), Y_1 = A (3I - A)/2, times sqrt(t) = 2.
    cov = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))[None]
    expected = torch.diag(torch.tensor([0.25 * 2.75, 0.75 * 2.25], dtype=torch.float64))[None]
    tolerances.assert_same_float64(reference.newton_schulz_sqrt(cov, 1), expected, "root")


def test_many_iterations_are_the_root() -> None:
    cov = inputs.covariance_matrices(2, 6)
    root = reference.newton_schulz_sqrt(cov, 40)
    tolerances.assert_same_float64(root @ root, cov, "square of the root")


def test_five_iterations_are_not_the_exact_root() -> None:
    x = torch.randn(4, 256, 196, dtype=torch.float64).relu()
    eigenvalues, v = torch.linalg.eigh(oracle.covariance_pool(x))
    exact_root = (v * eigenvalues.clamp(min=0).sqrt()[:, None, :]) @ v.mT
    published, spread = tolerances.FIVE_ITERATIONS_FROM_ROOT
    assert abs(tolerances.relative_error(reference.isqrt_pool(x), exact_root) - published) <= spread


def test_only_the_symmetric_part_of_a_matrix_counts() -> None:
    cov = inputs.covariance_matrices(2, 5)
    skew = torch.randn(2, 5, 5, dtype=torch.float64)
    root = reference.newton_schulz_sqrt(cov + (skew - skew.mT))
    tolerances.assert_same_float64(root, reference.newton_schulz_sqrt(cov), "root")


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 4, 4), (2, 3, 2, 2)])
def test_triangle_and_its_inverse(shape: tuple[int, ...]) -> None:
    m = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(reference.triu_vec(m), oracle.triangle(m))
    symmetric = m.triu() + m.triu(1).mT
    assert torch.equal(reference.triu_unvec(reference.triu_vec(m)), symmetric)


def test_upper_triangle_is_row_major() -> None:
    assert reference.triu_vec(torch.arange(9.0).view(3, 3)).tolist() == [0, 1, 2, 4, 5, 8]


@pytest.mark.parametrize(("c", "m"), [(1, 3), (3, 2), (3, 7)])
def test_numerical_derivatives_of_pooling(c: int, m: int) -> None:
    x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
    for function in (reference.covariance_pool, lambda x: reference.isqrt_pool(x, 3)):
        assert gradcheck(function, x)
        assert gradgradcheck(function, x)


@pytest.mark.parametrize("n_iter", [1, 2, 5])
def test_numerical_derivatives_of_newton_schulz(n_iter: int) -> None:
    cov = inputs.covariance_matrices(2, 3).requires_grad_()
    assert gradcheck(lambda cov: reference.newton_schulz_sqrt(cov, n_iter), cov)
    assert gradgradcheck(lambda cov: reference.newton_schulz_sqrt(cov, n_iter), cov)


def test_numerical_derivatives_of_the_triangle() -> None:
    m = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    for function, argument in ((reference.triu_vec, m), (reference.triu_unvec, v)):
        assert gradcheck(function, argument)
        assert gradgradcheck(function, argument)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 49])
def test_constant_sample_gives_zeros_and_zero_gradient(dtype: torch.dtype, m: int) -> None:
    x = torch.full((2, 4, m), 0.1, dtype=dtype, requires_grad=True)
    pooled = reference.isqrt_pool(x)
    (gradient,) = torch.autograd.grad(pooled, x, torch.randn_like(pooled))
    assert not pooled.any()
    assert not gradient.any()
