"""The public functions of every backend, against exact values in float64: every dtype, size and spectrum, in pairs.

Each comparison is of the value and of the gradient for a random upstream gradient, which for "full" output is not
symmetric. Fresh memory is poisoned with NaN, so an element that no kernel writes is an error too.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcp_kernels import (
    covariance_pool,
    fused_gcp,
    newton_schulz_sqrt,
    reference,
    triu_unvec,
    triu_vec,
)
from tests.support import inputs, oracle, tolerances
from tests.support.accuracy import (
    DTYPES,
    NOT_FOR_FLOAT16_COVARIANCE,
    check_pooling,
    name_of,
    skip_unless_it_runs,
    upstream,
    value_and_gradient,
)
from tests.support.pairwise import combined

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# dtype, C and M: every pair of small ones (on a GPU every combination), apart for those that Triton's interpreter can
# take and for those that it cannot; and of the large sizes those that take a different course in some kernel, in two
# dtypes.
LARGE = [(96, 2), (96, 49), (128, 49), (128, 196), (200, 1), (200, 49), (256, 49), (256, 196)]
SIZES = [
    *combined(DTYPES, (1, 3, 16), (1, 2, 49, 196)),
    *combined(DTYPES, (48, 64), (1, 2, 49, 196)),
    *((dtype, *size) for i, size in enumerate(LARGE) for dtype in (DTYPES[i % 2], DTYPES[2 + i // 2 % 2])),
]
COVARIANCES = ((1, 49), (3, 1), (3, 2), (48, 49), (130, 196))
ITERATIONS = (1, 2, 3, 5, 7)


@pytest.mark.sampled(3)
@pytest.mark.operation("isqrt_pool")
@pytest.mark.parametrize(("dtype", "c", "m"), SIZES, ids=name_of)
def test_sizes(dtype: torch.dtype, c: int, m: int, backend: str, device: str) -> None:
    check_pooling(inputs.relu_features(3 if c < 64 else 1, c, m, dtype), backend, device)


@pytest.mark.operation("isqrt_pool")
@pytest.mark.parametrize("n_iter", ITERATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_iterations(dtype: torch.dtype, n_iter: int, backend: str, device: str) -> None:
    check_pooling(inputs.relu_features(2, 24, 49, dtype), backend, device, n_iter=n_iter)


@pytest.mark.sampled(3)
@pytest.mark.operation("isqrt_pool")
@pytest.mark.parametrize(("dtype", "spectrum", "c"), combined(DTYPES, list(inputs.SPECTRA), (5, 64)), ids=name_of)
def test_spectra(dtype: torch.dtype, spectrum: str, c: int, backend: str, device: str) -> None:
    check_pooling(inputs.SPECTRA[spectrum](2, c, 49, dtype), backend, device)


@pytest.mark.sampled(4)
@pytest.mark.operation("isqrt_pool")
@pytest.mark.parametrize(
    ("dtype", "spectrum", "precision"), combined(DTYPES[1:], list(inputs.SPECTRA), ("fast", "high")), ids=name_of
)
def test_precision_asked_for(dtype: torch.dtype, spectrum: str, precision: str, backend: str, device: str) -> None:
    check_pooling(inputs.SPECTRA[spectrum](2, 64, 49, dtype), backend, device, precision=precision)


@pytest.mark.operation("isqrt_pool")
@pytest.mark.parametrize(("b", "c"), [(300, 3), (37, 64), (19, 128), (11, 256)])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=name_of)
def test_batches_larger_than_what_is_worked_on_at_once(
    dtype: torch.dtype, b: int, c: int, backend: str, device: str
) -> None:
    x = inputs.relu_features(b, c, 20, dtype)
    x[b // 2] = 0.1  # a constant sample in the midst of others
    check_pooling(x, backend, device)


@pytest.mark.operation("isqrt_pool")
@pytest.mark.parametrize("n_iter", ITERATIONS)
@pytest.mark.parametrize(("b", "c"), [(3, 5), (11, 256)])
def test_gradient_without_kept_iterates(b: int, c: int, n_iter: int, backend: str, device: str) -> None:
    """Where iterates are not kept, as on a GPU, the backward pass makes them again from the features."""
    x, grad = inputs.relu_features(b, c, 20), torch.randn(b, c * (c + 1) // 2, dtype=torch.float64)
    skip_unless_it_runs(backend, "isqrt_pool", x.to(device))
    exact = oracle.isqrt_pool_grad(x, n_iter, oracle.triangle_grad(grad, c))

    def pool(x: Tensor) -> Tensor:
        return torch.ops.gcp_kernels.isqrt_pool(x, n_iter, True, False, "default", backend)[0]

    _, gradient = value_and_gradient(pool, x.to(device), grad.to(device))
    tolerances.assert_same_float64(gradient, exact, "gradient")


@pytest.mark.operation("newton_schulz_sqrt")
@pytest.mark.parametrize("n_iter", ITERATIONS)
def test_gradient_of_a_root_without_kept_iterates(n_iter: int, backend: str, device: str) -> None:
    cov, grad = inputs.covariance_matrices(40, 64), torch.randn(40, 64, 64, dtype=torch.float64)
    skip_unless_it_runs(backend, "newton_schulz_sqrt", cov.to(device))

    def root(cov: Tensor) -> Tensor:
        return torch.ops.gcp_kernels.newton_schulz_sqrt(cov, n_iter, False, "default", backend)[0]

    _, gradient = value_and_gradient(root, cov.to(device), grad.to(device))
    tolerances.assert_same_float64(gradient, oracle.newton_schulz_sqrt_grad(cov, n_iter, grad), "gradient")


@pytest.mark.operation("isqrt_pool")
def test_precision_is_of_no_effect_on_float64(backend: str, device: str) -> None:
    check_pooling(inputs.relu_features(2, 32, 49), backend, device, precision="fast")


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize(
    ("dtype", "spectrum", "size"), combined(DTYPES, list(inputs.SPECTRA), COVARIANCES), ids=name_of
)
def test_covariance(dtype: torch.dtype, spectrum: str, size: tuple[int, int], backend: str, device: str) -> None:
    c, m = size
    if dtype == torch.float16 and spectrum in NOT_FOR_FLOAT16_COVARIANCE:
        pytest.skip("the covariance is out of the range of float16")
    x = inputs.SPECTRA[spectrum](2, c, m, dtype)
    skip_unless_it_runs(backend, "covariance_pool", x.to(device))
    for output, keep in (("full", torch.Tensor.contiguous), ("triu", oracle.triangle)):
        grad, grad_matrix = upstream(c, output, 2, dtype)

        def pool(x: Tensor, output: str = output) -> Tensor:
            return covariance_pool(x, output=output, backend=backend)

        def pool_unfused(x: Tensor, keep: Callable[[Tensor], Tensor] = keep) -> Tensor:
            return keep(reference.covariance_pool(x))

        value, gradient = value_and_gradient(pool, x.to(device), grad.to(device))
        unfused, unfused_gradient = tolerances.unfused(pool_unfused, x, grad)
        tolerances.assert_as_accurate(value, unfused, keep(oracle.covariance_pool(x)), f"{output} value")
        exact = oracle.covariance_pool_grad(x, grad_matrix)
        tolerances.assert_as_accurate(gradient, unfused_gradient, exact, f"{output} gradient")


@pytest.mark.operation("newton_schulz_sqrt")
@pytest.mark.parametrize(("dtype", "c", "n_iter"), combined(DTYPES, (1, 3, 16, 64, 130), ITERATIONS), ids=name_of)
def test_newton_schulz(dtype: torch.dtype, c: int, n_iter: int, backend: str, device: str) -> None:
    cov = inputs.covariance_matrices(2, c, dtype)
    skip_unless_it_runs(backend, "newton_schulz_sqrt", cov.to(device))
    grad = torch.randn(2, c, c).to(dtype)

    def root(cov: Tensor) -> Tensor:
        return newton_schulz_sqrt(cov, n_iter=n_iter, backend=backend)

    value, gradient = value_and_gradient(root, cov.to(device), grad.to(device))
    unfused, unfused_gradient = tolerances.unfused(lambda cov: reference.newton_schulz_sqrt(cov, n_iter), cov, grad)
    tolerances.assert_as_accurate(value, unfused, oracle.newton_schulz_sqrt(cov, n_iter), "value")
    exact = oracle.newton_schulz_sqrt_grad(cov, n_iter, grad)
    tolerances.assert_as_accurate(gradient, unfused_gradient, exact, "gradient")


@pytest.mark.operation("triu_vec")
@pytest.mark.parametrize("c", [1, 2, 3, 31, 64, 130])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_triangle_is_read_exactly(dtype: torch.dtype, c: int, backend: str, device: str) -> None:
    m, grad = torch.randn(3, c, c).to(dtype), torch.randn(3, c * (c + 1) // 2).to(dtype)
    value, gradient = value_and_gradient(lambda m: triu_vec(m, backend=backend), m.to(device), grad.to(device))
    assert torch.equal(value.cpu(), oracle.triangle(m))
    assert torch.equal(gradient.cpu(), oracle.triangle_grad(grad, c))


@pytest.mark.operation("triu_unvec")
@pytest.mark.parametrize("c", [1, 2, 3, 31, 64, 130])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_triangle_is_written_exactly(dtype: torch.dtype, c: int, backend: str, device: str) -> None:
    v, grad = torch.randn(3, c * (c + 1) // 2).to(dtype), torch.randn(3, c, c).to(dtype)
    value, gradient = value_and_gradient(lambda v: triu_unvec(v, backend=backend), v.to(device), grad.to(device))
    upper = oracle.triangle_grad(v, c)
    assert torch.equal(value.cpu(), upper + upper.triu(1).mT)
    # One rounded sum of two elements off the diagonal, in whatever precision: exact, then rounded.
    folded = grad.double() + grad.double().tril(-1).mT
    assert torch.equal(gradient.cpu(), oracle.triangle(folded).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_reference_as_a_backend(dtype: torch.dtype) -> None:
    x, grad = inputs.relu_features(2, 6, 9, dtype), torch.randn(2, 21).to(dtype)
    ours = value_and_gradient(lambda x: fused_gcp(x, backend="reference"), x, grad)
    with torch.no_grad():
        precise = x.to(tolerances.accumulation_dtype(dtype))
        expected = reference.triu_vec(reference.isqrt_pool(precise)).to(dtype)
    assert torch.equal(ours[0], expected)
    exact = oracle.isqrt_pool_grad(x, 5, oracle.triangle_grad(grad.double(), 6))
    unfused = tolerances.unfused(lambda x: reference.triu_vec(reference.isqrt_pool(x)), x, grad)
    tolerances.assert_as_accurate(ours[1], unfused[1], exact, "gradient")
