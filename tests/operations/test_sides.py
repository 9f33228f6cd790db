"""The torch backend on either side of features: where it chooses which, that both agree, and what the smaller saves."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gcp_kernels import fused_gcp
from gcp_kernels.ops import backends
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from gcp_kernels.ops.torch_device import side, triangle
from tests.support import inputs, oracle, tolerances
from tests.support.accuracy import check_pooling

pytestmark = pytest.mark.versions

SHARES = {CHANNELS: 0, POSITIONS: 10**6}


def force(monkeypatch, which):
    """Iterate on one side, whatever the shape."""
    monkeypatch.setattr(side, "MOST_POSITIONS", SHARES[which])


def value_and_gradient(x, grad, **options):
    leaf = x.detach().requires_grad_()
    value = fused_gcp(leaf, backend="torch", **options)
    return value.detach(), torch.autograd.grad(value, leaf, grad)[0]


def upstream(b, c, output):
    """Draw an upstream gradient; that of a full matrix is not symmetric."""
    return torch.randn(b, c, c, dtype=torch.float64) if output == "full" else torch.randn(b, c * (c + 1) // 2).double()


@pytest.mark.parametrize(
    ("c", "m", "expected"),
    [
        (256, 49, POSITIONS), (256, 196, POSITIONS), (384, 196, POSITIONS), (64, 49, POSITIONS), (20, 16, POSITIONS),
        (20, 17, CHANNELS), (192, 196, CHANNELS), (64, 196, CHANNELS), (1, 1, CHANNELS), (2, 1, POSITIONS),
    ],
)  # fmt: skip
def test_the_side_depends_on_the_shape_alone(c, m, expected):
    assert side.side_of(c, m) == expected
    assert side.iterated_size(c, m) == (m if expected == POSITIONS else c)
    _, centre, trace, iterates = torch.ops.gcp_kernels.isqrt_pool(torch.randn(1, c, m), 3, True, True, "high", "torch")
    assert (centre.shape, trace.shape) == ((1, c), (1,))
    assert iterates.shape == (1, 6, *2 * (side.iterated_size(c, m),))


@pytest.mark.parametrize("n_iter", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("c", "m"), [(7, 1), (9, 2), (5, 4), (64, 20), (50, 49), (300, 30)])
def test_both_sides_give_the_exact_values(c, m, n_iter, monkeypatch):
    """In float64, with features in either order in memory; also where the backend would choose the other side."""
    output = "full" if n_iter % 2 else "triu"
    x, grad = inputs.relu_features(2, c, m), upstream(2, c, output)
    keep = oracle.triangle if output == "triu" else torch.Tensor.contiguous
    grad_matrix = oracle.triangle_grad(grad, c) if output == "triu" else grad
    exact = keep(oracle.isqrt_pool(x, n_iter)), oracle.isqrt_pool_grad(x, n_iter, grad_matrix)
    for which in (CHANNELS, POSITIONS):
        force(monkeypatch, which)
        for features in (x, x.mT.contiguous().mT):
            ours = value_and_gradient(features, grad, n_iter=n_iter, output=output)
            for one, truth, what in zip(ours, exact, ("value", "gradient"), strict=True):
                tolerances.assert_same_float64(one, truth, f"{which}: {what}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spectrum", inputs.SPECTRA)
def test_spectra_on_the_side_of_the_positions(spectrum, dtype):
    check_pooling(inputs.SPECTRA[spectrum](2, 64, 49, dtype), "torch", "cpu")


@pytest.mark.parametrize("c", [1024, pytest.param(2048, marks=pytest.mark.thorough)])
def test_wide_layers(c):
    """A layer without a reduction of its channels."""
    check_pooling(inputs.relu_features(1, c, 49, torch.float32), "torch", "cpu")


@pytest.mark.parametrize("n_iter", [10, 20, 30])
@pytest.mark.parametrize("c", [64, 256])
def test_any_number_of_iterations_keeps_the_promise_of_float32(c, n_iter):
    """Where positions are independent but for their mean: nothing that is singular is left to grow."""
    x, grad = inputs.relu_features(2, c, 49, torch.float32), torch.randn(2, c * (c + 1) // 2)
    ours = value_and_gradient(x, grad, n_iter=n_iter)
    exact = oracle.triangle(oracle.isqrt_pool(x, n_iter))
    exact_gradient = oracle.isqrt_pool_grad(x, n_iter, oracle.triangle_grad(grad.double(), c))
    tolerances.assert_promise_kept(ours[0], exact, "high", "value")
    tolerances.assert_promise_kept(ours[1], exact_gradient, "high", "gradient")


def test_a_sample_does_not_depend_on_the_others():
    """Constant, NaN, and regular ones in a batch: zeros, NaN, and within rounding what they are alone."""
    x, grad = inputs.relu_features(5, 24, 9, torch.float32), torch.randn(5, 300)
    x[1], x[3, 2, 4] = 0.1, torch.nan
    value, gradient = value_and_gradient(x, grad)
    assert not value[1].any()
    assert not gradient[1].any()
    assert value[3].isnan().all()
    assert gradient[3].isnan().all()
    for sample in (0, 2, 4):
        alone = value_and_gradient(x[sample : sample + 1], grad[sample : sample + 1])
        for ours, theirs in zip((value, gradient), alone, strict=True):
            tolerances.assert_promise_kept(ours[sample : sample + 1], theirs.double(), "high", "in a batch")


@pytest.mark.parametrize("n_iter", [250, 2000])
def test_a_constant_sample_gives_zeros_after_any_number_of_iterations(n_iter):
    x, grad = torch.full((1, 12, 5), 0.3), torch.randn(1, 78)
    x[0, 2] = -1.0
    for result in value_and_gradient(x, grad, n_iter=n_iter):
        assert torch.equal(result, torch.zeros_like(result))


@pytest.mark.parametrize("which", SHARES)
def test_a_trace_beyond_float32_gives_nan(which, monkeypatch):
    """Also where it is a sum of squares that are all in range themselves; never zeros."""
    force(monkeypatch, which)
    for result in value_and_gradient(1e18 * torch.randn(1, 64, 49), torch.randn(1, 2080)):
        assert result.isnan().all()


def test_an_index_map_is_made_once_for_all_strips():
    """Of 17 strips; those of a product that is computed again are found where they are kept."""
    x = torch.randn(1, 2100, 2)
    fused_gcp(x)
    triangle._cpu_strip_map.cache_clear()
    first, second = fused_gcp(x), fused_gcp(x)
    assert torch.equal(first, second)
    kept = triangle._cpu_strip_map.cache_info()
    assert (kept.misses, kept.hits) == (1, 1)


class Copies(TorchDispatchMode):
    """Note products whose operands torch would copy first, and copies of whole features."""

    def __init__(self, features):
        super().__init__()
        self.features, self.found, self.products = features, [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_):
            self.products += 1
            operands = args[-2:]
            self.found += [t.stride() for t in operands if 1 not in t.stride()[1:]]
        if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.contiguous):
            self.found += [t.shape for t in args[:1] if t.numel() >= self.features]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.parametrize("output", ["triu", "full"])
def test_no_features_are_copied(layout, output):
    x = torch.randn(2, 48, 16)
    x = x if layout == "channels first" else x.mT.contiguous().mT
    pool, differentiate = (backends.implementation(f"isqrt_pool{which}", "torch") for which in ("", "_backward"))
    with Copies(x.numel()) as copies:
        pooled, *saved = pool(x, 5, output == "triu", True, "high")
        gradient = differentiate(pooled, x, *saved, 5, output == "triu", "high")
    assert copies.products > 20
    assert not copies.found
    assert gradient.stride() == x.stride()


@pytest.mark.parametrize("m", [15, 16, 17, 18])
def test_the_backward_pass_takes_the_side_of_the_forward_pass(m):
    """What that keeps is what it accepts, on both sides of the threshold; and iterates of another size are refused."""
    x = torch.randn(2, 20, m)
    pooled, *saved = torch.ops.gcp_kernels.isqrt_pool(x, 3, True, True, "high", "torch")
    torch.ops.gcp_kernels.isqrt_pool_backward(pooled, x, *saved, 3, True, "high", "torch")
    size = m if m < 17 else 20
    saved[-1] = torch.empty(2, 6, 19, 19)
    expected = rf"iterates must have shape \(2, 0, 20, 20\) or \(2, 6, {size}, {size}\), got"
    with pytest.raises(ValueError, match=expected):
        torch.ops.gcp_kernels.isqrt_pool_backward(pooled, x, *saved, 3, True, "high", "torch")
