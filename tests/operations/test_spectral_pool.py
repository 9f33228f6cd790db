"""Powers and the logarithm of the covariance of features, decomposed on its smaller side: values and gradients."""

import sys

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gcp_kernels import reference
from gcp_kernels.ops.backends import implementation
from gcp_kernels.ops.spectral_pool import log_pool, power_pool
from gcp_kernels.ops.spectral_pool.side import kept_eigenvectors
from tests.support import inputs, tolerances
from tests.support.refusals import refuses

pytestmark = pytest.mark.versions

# Powers whose derivative at zero is infinite, one and zero; 0 stands for the logarithm.
ALPHAS = (0.0, 0.3, 0.5, 1.0, 2.0)
EPS = 1e-2


def pool(x: Tensor, alpha: float, output: str = "triu", channel_dim: int = 1, backend: str | None = None) -> Tensor:
    options = {"channel_dim": channel_dim, "output": output, "precision": None, "backend": backend}
    return power_pool(x, alpha, **options) if alpha else log_pool(x, EPS, **options)


def exact(x: Tensor, alpha: float, output: str = "triu") -> Tensor:
    cov = reference.covariance_pool(x)
    value = reference.matrix_power(cov, alpha) if alpha else reference.matrix_log(cov, EPS)
    return reference.triu_vec(value) if output == "triu" else value


def with_gradient(value: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return value.detach(), torch.autograd.grad(value, x, grad.to(value))[0]


def sizes() -> list[tuple[int, int]]:
    """List C and M: no position more than one, few, on either side of C."""
    return [(c, m) for c in (8, 64) for m in (1, 2, 9, 49, c - 1, c, 2 * c)] + [(256, m) for m in (1, 49, 255, 512)]


@pytest.mark.parametrize(("c", "m"), sizes())
@pytest.mark.usefixtures("poisoned_memory")
def test_as_accurate_as_the_reference(c: int, m: int, device: str) -> None:
    for alpha in ALPHAS if c < 256 else (0.0, 0.5):
        for dtype in (torch.float64, torch.float32, torch.float16):
            x, grad = inputs.relu_features(2, c, m, dtype), torch.randn(2, c * (c + 1) // 2).to(dtype)
            on_device = x.to(device).requires_grad_()
            ours = with_gradient(pool(on_device, alpha), on_device, grad)
            truth_of = x.double().requires_grad_()
            truth = with_gradient(exact(truth_of, alpha), truth_of, grad)
            unfused = tolerances.unfused(lambda x: exact(x, alpha), x, grad, "high")  # noqa: B023
            for what, actual, theirs, right in zip(("value", "gradient"), ours, unfused, truth, strict=True):
                if dtype == torch.float64:
                    tolerances.assert_same_float64(actual, right, f"{what}, {alpha}")
                else:
                    tolerances.assert_as_accurate(actual, theirs, right, f"{what}, {alpha}, {dtype}")


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize(("c", "m"), [(64, 10), (256, 49)])
def test_the_promise_is_kept_with_few_positions(c: int, m: int, alpha: float, device: str) -> None:
    """Of the logarithm too, whose slope in the null space of the covariance is 1 / eps: x - mu has no part in it."""
    x, grad = inputs.relu_features(2, c, m, torch.float32), torch.randn(2, c * (c + 1) // 2)
    truth_of, x = x.double().requires_grad_(), x.to(device).requires_grad_()
    truth = with_gradient(exact(truth_of, alpha), truth_of, grad)
    for what, actual, right in zip(("value", "gradient"), with_gradient(pool(x, alpha), x, grad), truth, strict=True):
        tolerances.assert_promise_kept(actual, right, "high", what)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("dead", [32, 48, 56, 63, 64])
def test_dead_channels(dead: int, alpha: float, device: str) -> None:
    """As behind a ReLU, in a batch: LAPACK decomposes some such covariances into NaN in float32, or gives up."""
    x = inputs.relu_features(100, 64, 256, torch.float32)
    x[:, torch.randperm(64)[:dead]] = 0
    grad = torch.randn(100, 64 * 65 // 2)
    truth_of, x = x.double().requires_grad_(), x.to(device).requires_grad_()
    truth = with_gradient(exact(truth_of, alpha), truth_of, grad)
    for what, actual, right in zip(("value", "gradient"), with_gradient(pool(x, alpha), x, grad), truth, strict=True):
        tolerances.assert_promise_kept(actual, right, "high", what)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("m", [5, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_singular_and_bad_samples(dtype: torch.dtype, m: int, alpha: float, device: str) -> None:
    """A constant sample, repeated positions, constant channels and NaN; on either side, in one batch."""
    x = inputs.relu_features(5, 8, m, dtype)
    x[0] = 0.3
    x[1, :, 2:] = x[1, :, :1]
    x[2, 1:6] = 7.0
    clean, grad = x.clone(), torch.randn(5, 8, 8)
    x[3, 4, 1] = float("nan")
    results = []
    for given in (x, clean):
        leaf = given.to(device).requires_grad_()
        results.append(with_gradient(pool(leaf, alpha, "full"), leaf, grad))
    truth_of = clean.double().requires_grad_()
    truth = with_gradient(exact(truth_of, alpha, "full"), truth_of, grad)
    for what, ours, undisturbed, right in zip(("value", "gradient"), *results, truth, strict=True):
        assert ours[3].isnan().all(), what
        assert undisturbed.isfinite().all(), what
        assert torch.equal(ours[[0, 1, 2, 4]], undisturbed[[0, 1, 2, 4]]) or ours.is_cuda, what
        if dtype == torch.float64:
            tolerances.assert_same_float64(undisturbed, right, what)
        else:
            assert tolerances.relative_error(undisturbed, right) < 1e-4, what
    if alpha:
        assert not results[0][0][0].any()
    assert not results[0][1][0].any(), "a constant sample has a gradient"


@pytest.mark.parametrize(
    ("c", "m", "alpha"), [*((5, 3, alpha) for alpha in ALPHAS), (6, 2, 0.5), (4, 4, 0.0), (4, 4, 0.5)]
)
def test_numerical_derivatives(c: int, m: int, alpha: float) -> None:
    x = torch.randn(1, c, m, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: pool(x, alpha), x)
    assert gradgradcheck(lambda x: pool(x, alpha, "full"), x)
    tangent = torch.randn_like(x)
    ours, theirs = (torch.func.jvp(lambda x: f(x, alpha), (x,), (tangent,))[1] for f in (pool, exact))  # noqa: B023
    tolerances.assert_same_float64(ours, theirs, "forward mode")


def test_numerical_derivatives_of_the_logarithm_where_positions_repeat() -> None:
    """A power below 1 has none: any change that raises the rank of the covariance has an infinite slope."""
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    x[:, :, 1:3] = x[:, :, :1]
    x.requires_grad_()
    assert gradcheck(lambda x: pool(x, 0.0), x)
    assert gradgradcheck(lambda x: pool(x, 0.0), x)


@pytest.mark.parametrize("m", [3, 12])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_layouts(alpha: float, m: int, device: str) -> None:
    x = torch.randn(2, 6, m, dtype=torch.float64, device=device)
    grad = torch.randn(2, 21, dtype=torch.float64, device=device)
    leaf = x.clone().requires_grad_()
    expected = with_gradient(pool(leaf, alpha), leaf, grad)
    for laid_out in (x.mT.contiguous().mT, x.repeat_interleave(2, dim=2)[..., ::2]):
        leaf = laid_out.detach().requires_grad_()
        for actual, right in zip(with_gradient(pool(leaf, alpha), leaf, grad), expected, strict=True):
            tolerances.assert_same_float64(actual, right.cpu(), "layout")
    tokens = x.mT.contiguous().requires_grad_()
    value, gradient = with_gradient(pool(tokens, alpha, channel_dim=-1), tokens, grad)
    tolerances.assert_same_float64(value, expected[0].cpu(), "tokens")
    tolerances.assert_same_float64(gradient, expected[1].mT.cpu(), "gradient of tokens")
    assert gradient.is_contiguous(), "the gradient is not laid out like the tokens"


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_both_sides_agree(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(256, 49), (5, 3), (2, 1), (1, 1), (10, 8), (64, 64), (64, 196)]
    assert [kept_eigenvectors(*size) for size in sizes] == [49, 3, 1, 1, 10, 64, 64]
    module = sys.modules[implementation("power_pool", "torch").__module__]
    x = torch.randn(2, 8, 5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 36, dtype=torch.float64)
    results = []
    for kept in (5, 8):
        monkeypatch.setattr(module, "kept_eigenvectors", lambda c, m, kept=kept: kept)
        results.append(with_gradient(pool(x, alpha), x, grad))
    for ours, theirs in zip(*results, strict=True):
        assert not torch.equal(ours, theirs), "both are of one side"
        tolerances.assert_same_float64(ours, theirs, "sides")


def test_an_exported_graph_takes_either_side() -> None:
    """No size of the features is fixed by the choice, which a compiler does not see."""

    class Pool(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pool(x, 0.5)

    shapes = ({0: torch.export.Dim("batch", max=64), 2: torch.export.Dim("positions", min=2, max=64)},)
    program = torch.export.export(Pool(), (torch.randn(2, 6, 5),), dynamic_shapes=shapes).module()
    for m in (2, 3, 6, 30):
        x = torch.randn(3, 6, m)
        assert torch.equal(program(x), pool(x, 0.5))


def test_backends_and_wrong_arguments() -> None:
    x = inputs.relu_features(2, 6, 3)
    assert torch.equal(pool(x, 0.5, backend="reference"), exact(x, 0.5))
    assert torch.equal(pool(x, 0.5, backend="torch"), pool(x, 0.5))
    with refuses(RuntimeError, "triton", "power_pool"):
        pool(x, 0.5, backend="triton")
    with refuses(ValueError, "alpha", "above 0", "-1"):
        pool(x, -1.0)
    with refuses(ValueError, "output", "'both'"):
        pool(x, 0.5, "both")
    with refuses(ValueError, "alpha", "above 0", "-1"):
        torch.ops.gcp_kernels.power_pool(x, -1.0, True, "auto")
    with refuses(ValueError, "eps", "above 0", "0.0"):
        torch.ops.gcp_kernels.log_pool(x, 0.0, True, "auto")
    value, eigenvalues, eigenvectors = torch.ops.gcp_kernels.power_pool(x, 0.5, True, "auto")
    backward = torch.ops.gcp_kernels.power_pool_backward
    for which, wrong in (("grad", value[:, :-1]), ("eigenvalues", eigenvalues[:1]), ("eigenvectors", eigenvectors[0])):
        given = {"grad": value, "eigenvalues": eigenvalues, "eigenvectors": eigenvectors, which: wrong}
        with refuses(ValueError, which):
            backward(x=x, alpha=0.5, triu=True, backend="auto", **given)
