"""The implementations that the benchmark transcribes: each is what it says, and the registry says what it is."""

import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import Case, make_inputs
from benchmarks.peers import exact_root, pade_lyapunov, providers, published, truth
from benchmarks.speed import measure
from gcp_kernels import reference
from tests.support.inputs import covariance_matrices, relu_features
from tests.support.tolerances import FLOAT64_AGREEMENT, assert_same_float64, relative_error

pytestmark = pytest.mark.same_without_gpu

CPU = torch.device("cpu")


def value_and_gradient(pool, x, upstream):
    x = x.detach().requires_grad_()
    value = pool(x)
    return value.detach(), torch.autograd.grad(value, x, upstream)[0]


@pytest.mark.parametrize("n_iter", [2, 3, 5])
def test_published_operations_are_the_reference(n_iter):
    x = relu_features(3, 6, 11).view(3, 6, 11, 1)
    upstream = torch.randn(3, 21, dtype=torch.float64)
    found = value_and_gradient(lambda features: published.published_pool(features, n_iter), x, upstream)
    expected = value_and_gradient(truth.reference_pool(n_iter), x, upstream)
    for actual, exact, what in zip(found, expected, ("output", "gradient"), strict=True):
        assert_same_float64(actual, exact, f"published {what}")


def test_published_operations_have_the_published_habits(monkeypatch):
    """38 products backward at N = 5, one loop turn per sample, all iterates and the centring matrices kept."""
    x = relu_features(4, 6, 11, torch.float32).requires_grad_()
    sizes = []

    def pack(saved):
        sizes.append(tuple(saved.shape))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        pooled = published.published_pool(x[..., None], 5)
    assert (4, 11, 11) in sizes
    assert sizes.count((4, 4, 6, 6)) == 2
    with torch.profiler.profile() as profile:
        pooled.sum().backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::bmm"] == 38 + 2, "those of the iteration, and two of the covariance"
    assert calls["aten::add_"] >= 4


def test_published_operations_give_nan_for_a_constant_sample():
    assert published.published_pool(torch.ones(1, 3, 2, 2), 5).isnan().all()
    with pytest.raises(ValueError, match="at least 2"):
        published.published_pool(torch.ones(1, 3, 2, 2), 1)


def test_exact_root_squares_to_the_matrix_and_has_the_right_gradient():
    cov = covariance_matrices(2, 5)
    root = exact_root.ExactSquareRoot.apply(cov)
    assert_same_float64(root @ root, cov, "square of the exact root")
    # Symmetric directions only: what lies outside them is no covariance.
    mixing = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: exact_root.ExactSquareRoot.apply(m @ m.mT), (mixing,))


@pytest.mark.parametrize(("c", "m"), [(6, 20), (12, 5)])
def test_exact_root_pool_has_the_right_gradient_at_any_rank(c, m):
    """Of fewer positions than channels the derivative of the root is infinite, and that of the pool is not."""
    x = relu_features(2, c, m).requires_grad_()
    upstream = torch.randn(2, c * (c + 1) // 2, dtype=torch.float64)
    _, gradient = value_and_gradient(exact_root.exact_root_pool, x[..., None], upstream)
    direction = torch.randn_like(x)
    step = 1e-6
    ahead, behind = (
        (exact_root.exact_root_pool((x + s * direction)[..., None]) * upstream).sum() for s in (step, -step)
    )
    expected = (ahead - behind) / (2 * step)
    assert abs((gradient[..., 0] * direction).sum() - expected) < 1e-6 * gradient.norm() * direction.norm()


def test_pade_coefficients_are_those_of_the_root():
    """The approximant of degree m agrees with sqrt(1 - z) up to z^(2m)."""
    for degree in (1, 3, 5):
        p, q = (torch.tensor(side, dtype=torch.float64) for side in pade_lyapunov.pade_coefficients(degree))
        # sqrt(1 - z) = 1 - z/2 - z^2/8 ...: coefficients by their recursion, times Q, are P and then nothing.
        series = [1.0]
        for k in range(2 * degree):
            series.append(series[-1] * (k - 0.5) / (k + 1))
        product = torch.zeros(2 * degree + 1, dtype=torch.float64)
        for i, left in enumerate(series):
            for j, right in enumerate(q.tolist()):
                if i + j < len(product):
                    product[i + j] += left * right
        assert torch.allclose(product[: degree + 1], p, atol=1e-12)
        assert product[degree + 1 :].abs().max() < 1e-12


def test_pade_root_and_lyapunov_gradient_approach_the_exact_ones():
    """Where no eigenvalue is small, as the paper has it; eight times the steps solve the equation itself."""
    cov = covariance_matrices(2, 6) + 0.5 * torch.eye(6, dtype=torch.float64)
    grad = covariance_matrices(2, 6)
    root = exact_root.ExactSquareRoot.apply(cov)
    assert relative_error(pade_lyapunov.PadeSquareRoot.apply(cov), root) < 1e-4
    solution = pade_lyapunov.lyapunov(root, grad, steps=64)
    assert_same_float64(root @ solution + solution @ root, grad, "the Lyapunov equation")
    assert relative_error(pade_lyapunov.lyapunov(root, grad), solution) < 1e-2


@pytest.mark.parametrize(("c", "m"), [(8, 40), (24, 9)])
def test_pade_truth_is_what_the_matrix_form_computes(c, m):
    x = relu_features(2, c, m)[..., None]
    upstream = torch.randn(2, c * (c + 1) // 2, dtype=torch.float64)
    found = value_and_gradient(pade_lyapunov.pade_lyapunov_pool, x, upstream)
    expected = value_and_gradient(pade_lyapunov.pade_lyapunov_truth, x, upstream)
    for actual, exact in zip(found, expected, strict=True):
        # Q falls to 11 / 1024, which costs two digits of float64.
        assert relative_error(actual, exact) < 100 * FLOAT64_AGREEMENT


def test_names_are_unique_and_an_unknown_one_is_refused():
    names = [provider.name for provider in providers.PROVIDERS]
    assert len(set(names)) == len(names)
    assert [providers.by_name(name) for name in names] == list(providers.PROVIDERS)
    with pytest.raises(ValueError, match="'nobody'"):
        providers.by_name("nobody")


def test_every_provider_that_is_here_meets_its_own_truth():
    """All but the compiled one; in float32 and bfloat16, with more positions than channels and with fewer."""
    shapes = (Case(2, 16, 5, 5), Case(2, 24, 3, 3))
    kinds = {"float32": "high", "bfloat16": "fast"}
    met = set()
    for provider in providers.PROVIDERS:
        for shape in shapes:
            for dtype, precision in kinds.items():
                case = Case(2, shape.channels, shape.height, shape.width, dtype=dtype, precision=precision)
                if provider.compiles or provider.why_not(case, CPU):
                    continue
                inputs = make_inputs(case, CPU)
                errors = truth.Judge(case, inputs).errors(provider.build(case), provider.truth)
                assert errors.within(provider.limit(case)), f"{provider.name}, {case.label}: {errors}"
                met.add(provider.name)
    assert met >= {"gcp_kernels[torch]", "published", "autograd", "pade-lyapunov", "eigh", "average"}


def test_five_iterations_are_not_the_root_and_the_judge_tells_them_apart():
    case = Case(2, 16, 5, 5)
    judge = truth.Judge(case, make_inputs(case, CPU))
    pool = truth.reference_pool(5)
    assert judge.errors(pool, "iterates").output < 1e-5
    assert judge.errors(pool, "root").output > 0.05


def test_backends_say_why_they_are_not_measured():
    case = Case(2, 16, 5, 5)
    reasons = {provider.name: provider.why_not(case, CPU) for provider in providers.BACKEND_PROVIDERS}
    assert reasons["gcp_kernels[torch]"] is None
    # Interpreted kernels could run here, and their time would be that of the interpreter.
    assert "CUDA tensor" in reasons["gcp_kernels[triton]"] or "interpreted" in reasons["gcp_kernels[triton]"]
    assert reasons["gcp_kernels[cuda]"]


def test_centring_matrices_that_do_not_fit_are_refused_before_they_are_made():
    reason = providers.published_why_not(Case(10**6, 64, 100, 250), CPU)
    assert "GiB" in reason


def test_settings_hold_inside_the_block_only():
    before = torch.get_float32_matmul_precision()
    fast = Case(2, 16, 5, 5, precision="fast")
    for name, expected in (("autograd", "high"), ("eigh", "highest")):
        with providers.settings(providers.by_name(name), fast):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "precision"), [("compile", "float32", "high"), ("compile-half", "float16", "fast")]
)
def test_compiled_reference_meets_the_truth_in_each_direction(name, dtype, precision):
    provider = providers.by_name(name)
    for direction in ("both", "backward"):
        case = Case(2, 16, 5, 5, dtype=dtype, precision=precision, direction=direction)
        inputs = make_inputs(case, CPU)
        row, pool = measure.verified("made up", case, provider, CPU, truth.Judge(case, inputs), inputs)
        assert row.problem is None
        with providers.settings(provider, case):
            (call,) = measure.calls_of(pool, "iterates", direction, [inputs])
            for _ in range(2):
                call()


def test_half_precision_throughout_is_what_is_compiled_for_it(monkeypatch):
    """float32 features have no half precision, and of those that have, no product is in float32."""
    monkeypatch.setattr(providers, "compiled", lambda pool: pool)
    half = providers.by_name("compile-half")
    assert half.why_not(Case(2, 16, 5, 5), CPU) == "features of float32 are no half precision"
    case = Case(2, 16, 5, 5, dtype="float16", precision="fast")
    inputs = make_inputs(case, CPU)
    products = {}
    for name in ("compile", "compile-half"):
        with ProductDtypes() as seen:
            providers.by_name(name).build(case)(inputs.features.detach())
        products[name] = seen.dtypes
    assert products == {"compile": {torch.float32}, "compile-half": {torch.float16}}


class ProductDtypes(TorchDispatchMode):
    """Collects the dtypes of the operands of matrix products."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default, torch.ops.aten.mm.default):
            self.dtypes |= {value.dtype for value in args if isinstance(value, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def test_reference_and_average_pool_are_theirs():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(truth.mean_pool(x), x.flatten(2).mean(-1))
    assert torch.equal(truth.reference_pool(3)(x), reference.triu_vec(reference.isqrt_pool(x.flatten(2), 3)))
