"""matrix_power and matrix_log, and their references: values, gradients of any spectrum, accuracy in every dtype."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gcp_kernels import covariance_pool, matrix_log, matrix_power, reference
from tests.support import inputs, tolerances
from tests.support import matrix_equations as equations

pytestmark = pytest.mark.versions

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Function = Callable[..., Tensor]

# The function under test and what it is tested with: the package's, and the reference, which runs on the CPU alone.
POWERS: dict[str, Function] = {"operator": matrix_power, "reference": reference.matrix_power}
LOGS: dict[str, Function] = {"operator": matrix_log, "reference": reference.matrix_log}

REPEATED = {
    "distinct": (0.3, 0.7, 1.1, 4.0),
    "pairs": (0.5, 0.5, 2.0, 2.0),
    "all_equal": (2.0, 2.0, 2.0, 2.0),
    "close": (1.0, 1.0 + 1e-9, 1.0 + 1e-6, 2.0),
    "wide": (1e-4, 1e-2, 1.0, 100.0),
}


def gradient_of(function: Function, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone().requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, grad.to(value))
    return value.detach(), gradient


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("spectrum", REPEATED)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_root_and_its_gradient_solve_their_equations(k: int, spectrum: str, power: str) -> None:
    cov = equations.with_eigenvalues(*REPEATED[spectrum])
    grad = torch.randn_like(cov)
    root, gradient = gradient_of(partial(POWERS[power], alpha=1 / k), cov, grad)
    tolerances.assert_same_float64(torch.linalg.matrix_power(root, k), cov, "power of the root")
    exact = equations.root_derivative(root, k, equations.symmetric(grad))
    tolerances.assert_same_float64(gradient, exact, "gradient")


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("spectrum", [*REPEATED, "with_zeros"])
@pytest.mark.parametrize("alpha", [2, 3.0])
def test_whole_powers_are_products(alpha: float, spectrum: str, power: str) -> None:
    """Of singular matrices too: from alpha = 1 on the derivative is finite."""
    cov = equations.with_eigenvalues(*REPEATED.get(spectrum, (0.0, 0.0, 1.0, 3.0)))
    grad = torch.randn_like(cov)

    def product(cov: Tensor) -> Tensor:
        symmetric = (cov + cov.mT) / 2
        return symmetric @ symmetric if alpha == 2 else symmetric @ symmetric @ symmetric

    ours = gradient_of(partial(POWERS[power], alpha=alpha), cov, grad)
    for what, actual, exact in zip(("value", "gradient"), ours, gradient_of(product, cov, grad), strict=True):
        tolerances.assert_same_float64(actual, exact, what)


@pytest.mark.parametrize("power", POWERS)
def test_power_one_is_the_symmetric_part_and_passes_its_gradient_on(power: str) -> None:
    cov = inputs.covariance_matrices(2, 4)
    cov[1] = 0
    grad = torch.randn_like(cov)
    value, gradient = gradient_of(partial(POWERS[power], alpha=1), cov + grad.triu(1) - grad.triu(1).mT, grad)
    tolerances.assert_same_float64(value, cov, "value")
    tolerances.assert_same_float64(gradient, equations.symmetric(grad), "gradient")


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("spectrum", [*REPEATED, "with_zeros"])
@pytest.mark.parametrize("eps", [1e-3, 0.5])
def test_logarithm_and_its_gradient_solve_their_equations(eps: float, spectrum: str, log: str) -> None:
    cov = equations.with_eigenvalues(*REPEATED.get(spectrum, (0.0, 0.0, 1.0, 3.0)))
    grad = torch.randn_like(cov)
    value, gradient = gradient_of(partial(LOGS[log], eps=eps), cov, grad)
    shifted = cov + eps * torch.eye(4, dtype=cov.dtype)
    tolerances.assert_same_float64(torch.linalg.matrix_exp(value), shifted, "exponential of the logarithm")
    exact = equations.log_derivative(value, equations.symmetric(grad))
    tolerances.assert_same_float64(gradient, exact, "gradient")


@pytest.mark.parametrize("function", ["operator", "reference"])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.75, 1.5, 0.0])
def test_no_digit_is_lost_between_close_and_far_eigenvalues(alpha: float, function: str) -> None:
    """The gradient at a diagonal matrix is made of divided differences, against 80 digits; alpha = 0: logarithm."""
    x = [1e-12, 3e-9, 1e-3, 0.5, 0.5 + 1e-13, 0.5 + 1e-9, 0.5 + 1e-5, 1.0, 70.0]
    if alpha:
        f = partial(POWERS[function], alpha=alpha)
        spectrum, given = x, torch.tensor(x, dtype=torch.float64)
    else:
        f = partial(LOGS[function], eps=1e-5)
        given = torch.tensor(x, dtype=torch.float64)
        spectrum = (given + 1e-5).tolist()
    _, gradient = gradient_of(f, torch.diag_embed(given)[None], torch.ones(1, 9, 9, dtype=torch.float64))
    for i, a in enumerate(spectrum):
        for j, b in enumerate(spectrum):
            exact = equations.divided_difference(a, b, alpha) if i != j else (alpha or 1) * a ** (alpha - 1)
            assert gradient[0, i, j].item() == pytest.approx(exact, rel=tolerances.FLOAT64_AGREEMENT), (a, b)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.5, 3, 0.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(
    "triple",
    [
        (0.2, 1.0, 9.0),
        (1e-9, 1.0, 2.0),
        (1.0, 1 + 1e-12, 2.0),
        (1.0, 1 + 1e-14, 1 + 1e-12),
        (1.0, 1 + 5e-5, 1 + 8e-5),
        (1.0, 1 + 1e-9, 1 + 7.3e-4),
        (1.0, 1 + 1e-3, 1 + 2e-3),
    ],
)
def test_second_derivative_loses_no_digit_either(triple: tuple[float, ...], scale: float, alpha: float) -> None:
    """At diag(x, y, z), element (0, 2) of the derivative of the gradient for G = E_01 in the direction E_12."""
    given = scale * torch.tensor(triple, dtype=torch.float64)
    cov = torch.diag_embed(given)[None].requires_grad_()
    g, h = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    g[0, 0, 1] = g[0, 1, 0] = h[0, 1, 2] = h[0, 2, 1] = 1
    eps = 1e-5
    value = matrix_power(cov, alpha) if alpha else matrix_log(cov, eps)
    (gradient,) = torch.autograd.grad(value, cov, g, create_graph=True)
    (second,) = torch.autograd.grad(gradient, cov, h)
    x, y, z = (given if alpha else given + eps).tolist()
    exact = equations.second_divided_difference(x, y, z, alpha)
    assert second[0, 0, 2].item() == pytest.approx(exact, rel=tolerances.FLOAT64_AGREEMENT)


def test_second_derivative_of_the_square_is_constant() -> None:
    """The gradient of A^2 for G is A G + G A, whose own gradient for H is H G + G H, at a zero matrix too."""
    cov = inputs.covariance_matrices(2, 3)
    cov[1] = 0
    cov.requires_grad_()
    g, h = (equations.symmetric(torch.randn(2, 3, 3)) for _ in range(2))
    (gradient,) = torch.autograd.grad(matrix_power(cov, 2), cov, g, create_graph=True)
    (second,) = torch.autograd.grad(gradient, cov, h)
    tolerances.assert_same_float64(second, h @ g + g @ h, "second derivative")


# Powers whose derivative at zero is infinite and finite; 0 stands for the logarithm.
ALPHAS = (0.0, 0.3, 0.5, 1, 1.5, 2)


def of_features(alpha: float, power: Function = matrix_power, log: Function = matrix_log) -> Function:
    def function(x: Tensor) -> Tensor:
        cov = covariance_pool(x)
        return power(cov, alpha) if alpha else log(cov, 1e-2)

    return function


@pytest.mark.sampled(2)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("c", "m"), [(3, 7), (4, 3), (5, 2), (4, 1), (1, 4)])
def test_numerical_derivatives_by_features(c: int, m: int, alpha: float) -> None:
    """With M <= C the covariance is singular, with a zero eigenvalue or several: first and second order are exact."""
    x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
    assert gradcheck(of_features(alpha), x)
    assert gradgradcheck(of_features(alpha), x)
    assert gradcheck(of_features(alpha, reference.matrix_power, reference.matrix_log), x)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("spectrum", ["distinct", "pairs", "all_equal", "close"])
def test_numerical_derivatives_by_matrices(spectrum: str, alpha: float) -> None:
    cov = equations.with_eigenvalues(*REPEATED[spectrum]).requires_grad_()

    def function(cov: Tensor) -> Tensor:
        return matrix_power(cov, alpha) if alpha else matrix_log(cov, 1e-2)

    assert gradcheck(function, cov)
    assert gradgradcheck(function, cov)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_third_derivative_for_distinct_eigenvalues(alpha: float) -> None:
    cov = equations.with_eigenvalues(0.3, 1.0, 2.0).requires_grad_()
    weights = torch.randn_like(cov)

    def second(cov: Tensor) -> Tensor:
        value = matrix_power(cov, alpha) if alpha else matrix_log(cov, 1e-2)
        (gradient,) = torch.autograd.grad((weights * (value + value**2)).sum(), cov, create_graph=True)
        return torch.autograd.grad((weights * gradient**2).sum(), cov, create_graph=True)[0]

    assert gradcheck(second, cov)


@pytest.mark.parametrize("name", ["operator", "reference"])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.99])
def test_zero_eigenvalues_contribute_nothing_among_themselves(alpha: float, name: str) -> None:
    """By hand for diag(0, 0, 4): pairs with 4 give 4^(alpha - 1), 4 itself alpha 4^(alpha - 1), the zeros nothing."""
    cov = torch.diag(torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64))[None]
    value, gradient = gradient_of(partial(POWERS[name], alpha=alpha), cov, torch.ones_like(cov))
    slope = 4 ** (alpha - 1)
    expected = torch.tensor([[0, 0, slope], [0, 0, slope], [slope, slope, alpha * slope]], dtype=torch.float64)
    tolerances.assert_same_float64(gradient, expected[None], "gradient")
    tolerances.assert_same_float64(value, cov * 4 ** (alpha - 1), "value")


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_matrix(dtype: torch.dtype, alpha: float, device: str) -> None:
    """What a constant sample has for its covariance: a value and gradients of both orders without NaN."""
    cov = torch.zeros(2, 3, 3, dtype=dtype, device=device)
    cov[1] = torch.eye(3)
    leaf = cov.requires_grad_()
    value = matrix_power(leaf, alpha) if alpha else matrix_log(leaf, 1.0)
    (gradient,) = torch.autograd.grad(value, leaf, torch.ones_like(value), create_graph=True)
    (second,) = torch.autograd.grad((gradient**2).sum(), leaf, materialize_grads=True)
    for tensor in (value, gradient, second):
        assert tensor.isfinite().all()
    if alpha:
        assert not value[0].any()
        assert gradient[0].any() == (alpha == 1)


def test_negative_eigenvalues_count_as_zero(device: str) -> None:
    """Those that rounding leaves of a singular covariance, and any other."""
    for negative in (-1e-17, -1e-3):
        cov = torch.diag(torch.tensor([negative, 1.0, 4.0], dtype=torch.float64, device=device))[None]
        value, gradient = gradient_of(matrix_power, cov, torch.ones_like(cov))
        assert value[0].diagonal().tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-15)
        assert gradient[0, 0].tolist() == pytest.approx([0.0, 1.0, 0.5])


@pytest.mark.parametrize("spectrum", ["low_rank", "repeated_channels"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_null_space_of_a_singular_covariance_stays_empty(dtype: torch.dtype, spectrum: str, device: str) -> None:
    """The root of what rounding leaves of a zero eigenvalue would be far above rounding, 3e-4 in float32."""
    x = inputs.SPECTRA[spectrum](2, 64, 49, dtype).to(device)
    rank = {"low_rank": 3, "repeated_channels": 32}[spectrum]
    root = matrix_power(covariance_pool(x)).double()
    singular_values = torch.linalg.svdvals(root)
    assert (singular_values[:, rank:] <= 100 * torch.finfo(dtype).eps * singular_values[:, :1]).all()
    assert (singular_values[:, rank - 1] > 1e-2 * singular_values[:, 0]).all()


def exact(function: Function, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Compute by the reference in float64, which solves the equations above."""
    return gradient_of(function, x.double(), grad.double())


@pytest.mark.parametrize("c", [1, 3, 16, 64, 130])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "reference_function"),
    [
        (matrix_power, reference.matrix_power),
        (partial(matrix_power, alpha=0.75), partial(reference.matrix_power, alpha=0.75)),
        (matrix_log, reference.matrix_log),
    ],
    ids=["root", "power", "log"],
)
@pytest.mark.usefixtures("poisoned_memory")
def test_as_accurate_as_the_reference_in_every_dtype(
    function: Function, reference_function: Function, dtype: torch.dtype, c: int, device: str
) -> None:
    cov = inputs.covariance_matrices(2, c, dtype)
    grad = torch.randn(2, c, c).to(dtype)
    value, gradient = gradient_of(function, cov.to(device), grad.to(device))
    unfused = tolerances.unfused(reference_function, cov, grad, "high")
    truth = exact(reference_function, cov, grad)
    for what, ours, theirs, right in zip(("value", "gradient"), (value, gradient), unfused, truth, strict=True):
        assert ours.dtype == dtype
        if dtype == torch.float64 and device == "cuda":
            # The reference is the exact value, without an error to compare with; a GPU has another decomposition.
            tolerances.assert_same_float64(ours, right, what)
            continue
        tolerances.assert_as_accurate(ours, theirs, right, what)
        if dtype == torch.float32:
            tolerances.assert_promise_kept(ours, right, "high", what)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(("c", "m"), [(64, 49), (64, 10), (130, 49)])
def test_gradient_by_features_with_a_singular_covariance_in_float32(c: int, m: int, alpha: float, device: str) -> None:
    x, grad = inputs.relu_features(2, c, m, torch.float32), torch.randn(2, c, c)
    unfused_function = of_features(alpha, reference.matrix_power, reference.matrix_log)

    def plain(x: Tensor) -> Tensor:
        cov = reference.covariance_pool(x)
        return reference.matrix_power(cov, alpha) if alpha else reference.matrix_log(cov, 1e-2)

    ours = gradient_of(of_features(alpha), x.to(device), grad.to(device))
    theirs = tolerances.unfused(plain, x, grad, "high")
    for what, actual, unfused, right in zip(
        ("value", "gradient"), ours, theirs, exact(unfused_function, x, grad), strict=True
    ):
        tolerances.assert_as_accurate(actual, unfused, right, what)
