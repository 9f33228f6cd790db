"""newton_schulz_inverse_sqrt: the scalar iteration on eigenvalues, gradients, accuracy, what is kept for backward."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gcp_kernels import newton_schulz_inverse_sqrt, newton_schulz_sqrt, reference
from tests.support import inputs, oracle, tolerances

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ITERATIONS = (1, 2, 3, 5, 7)
FUNCTIONS = {"operator": newton_schulz_inverse_sqrt, "reference": reference.newton_schulz_inverse_sqrt}


def value_and_gradient(function, cov: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = cov.detach().clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, grad.to(value))
    return value.detach(), gradient


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("eps", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("n_iter", ITERATIONS)
@pytest.mark.parametrize("c", [1, 2, 5, 16])
def test_it_is_the_scalar_iteration_on_eigenvalues(c: int, n_iter: int, eps: float, name: str) -> None:
    cov, grad = inputs.covariance_matrices(3, c), torch.randn(3, c, c, dtype=torch.float64)
    function = partial(FUNCTIONS[name], n_iter=n_iter, eps=eps)
    value, gradient = value_and_gradient(function, cov, grad)
    tolerances.assert_same_float64(value, oracle.newton_schulz_inverse_sqrt(cov, n_iter, eps), "value")
    exact = oracle.newton_schulz_inverse_sqrt_grad(cov, n_iter, eps, grad)
    tolerances.assert_same_float64(gradient, exact, "gradient")


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("rank", [1, 3])
def test_singular_matrices(rank: int, eps: float, device: str) -> None:
    """A zero eigenvalue has 1.5^N in Z_N, and gets a gradient: the iteration is a polynomial."""
    features = torch.randn(2, 6, rank, dtype=torch.float64)
    cov, grad = features @ features.mT, torch.randn(2, 6, 6, dtype=torch.float64)
    function = partial(newton_schulz_inverse_sqrt, eps=eps)
    value, gradient = value_and_gradient(function, cov.to(device), grad.to(device))
    tolerances.assert_same_float64(value, oracle.newton_schulz_inverse_sqrt(cov, 5, eps), "value")
    exact = oracle.newton_schulz_inverse_sqrt_grad(cov, 5, eps, grad)
    tolerances.assert_same_float64(gradient, exact, "gradient")
    if eps == 0:
        largest = torch.linalg.eigvalsh(value * cov.to(device).diagonal(dim1=1, dim2=2).sum(1).sqrt()[:, None, None])
        tolerances.assert_same_float64(largest[:, -1:], torch.full((2, 1), 1.5**5, dtype=torch.float64), "1.5^N")


def test_many_iterations_whiten() -> None:
    cov = inputs.covariance_matrices(2, 6)
    root = newton_schulz_inverse_sqrt(cov, n_iter=40, eps=0.5)
    identity = torch.eye(6, dtype=cov.dtype)
    tolerances.assert_same_float64(root @ (cov + 0.5 * identity) @ root, identity.expand(2, 6, 6), "whitened")


def test_it_is_the_other_half_of_the_square_root() -> None:
    """Y_N = A Z_N: with eps = 0, root = cov times inverse root."""
    cov = inputs.covariance_matrices(2, 6)
    for n_iter in ITERATIONS:
        product = cov @ newton_schulz_inverse_sqrt(cov, n_iter=n_iter, eps=0)
        tolerances.assert_same_float64(product, newton_schulz_sqrt(cov, n_iter=n_iter), "root")


@pytest.mark.parametrize("n_iter", [1, 2, 4])
def test_numerical_derivatives(n_iter: int) -> None:
    cov = inputs.covariance_matrices(2, 3).requires_grad_()
    for function in FUNCTIONS.values():
        assert gradcheck(partial(function, n_iter=n_iter), cov)
        assert gradgradcheck(partial(function, n_iter=n_iter), cov)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("n_iter", ITERATIONS)
@pytest.mark.parametrize("c", [1, 3, 16, 64, 130])
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_accurate_as_the_reference_in_every_dtype(dtype: torch.dtype, c: int, n_iter: int, device: str) -> None:
    cov, grad = inputs.covariance_matrices(2, c, dtype), torch.randn(2, c, c).to(dtype)
    function = partial(newton_schulz_inverse_sqrt, n_iter=n_iter)
    ours = value_and_gradient(function, cov.to(device), grad.to(device))
    plain = partial(reference.newton_schulz_inverse_sqrt, n_iter=n_iter)
    unfused = tolerances.unfused(plain, cov, grad)
    exact = (
        oracle.newton_schulz_inverse_sqrt(cov, n_iter, 1e-2),
        oracle.newton_schulz_inverse_sqrt_grad(cov, n_iter, 1e-2, grad),
    )
    for what, actual, theirs, right in zip(("value", "gradient"), ours, unfused, exact, strict=True):
        assert actual.dtype == dtype
        tolerances.assert_as_accurate(actual, theirs, right, what)
        if dtype == torch.float32:
            tolerances.assert_promise_kept(actual, right, "high", what)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_batch_larger_than_what_is_worked_on_at_once(dtype: torch.dtype, device: str) -> None:
    cov, grad = inputs.covariance_matrices(40, 128, dtype), torch.randn(40, 128, 128).to(dtype)
    cov[20] = 0
    value, gradient = value_and_gradient(newton_schulz_inverse_sqrt, cov.to(device), grad.to(device))
    tolerances.assert_promise_kept(value, oracle.newton_schulz_inverse_sqrt(cov, 5, 1e-2), "high", "value")
    exact = oracle.newton_schulz_inverse_sqrt_grad(cov, 5, 1e-2, grad)
    tolerances.assert_promise_kept(gradient, exact, "high", "gradient")


@pytest.mark.parametrize("dtype", DTYPES)
def test_trace_zero_gives_zeros_with_zero_gradient(dtype: torch.dtype, device: str) -> None:
    cov = torch.zeros(3, 4, 4, dtype=dtype, device=device)
    cov[1] = torch.eye(4)
    for function in FUNCTIONS.values():
        value, gradient = value_and_gradient(partial(function, eps=0), cov, torch.randn(3, 4, 4, device=device))
        assert not value[::2].any()
        assert not gradient[::2].any()
        assert value[1].diagonal().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("device_type", ["cpu", "meta"])
def test_the_matrix_and_its_trace_are_all_that_is_kept(device_type: str) -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    cov = torch.ones(3, 32, 32, device=device_type, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        newton_schulz_inverse_sqrt(cov, n_iter=7)
    assert sum(tensor.numel() for tensor in saved) <= 3 * 32 * 32 + 3
