"""Special cases of the Triton kernels in every form of launch: bad and constant samples, company, strides, extremes.

Matrices are 2 x 2 tiles here, and a persistent launch is one program that takes all samples in one slab.
"""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support import inputs, tolerances
from tests.support import triton_forms as forms
from tests.support.triton_batches import COMBINATIONS, LAYOUTS, UPSTREAM, C, D, M, check_batch, check_gradient_of, dense

pytestmark = [pytest.mark.versions, forms.runs_here, forms.quiet]

in_every_form = pytest.mark.parametrize("form", forms.FORMS)


@pytest.fixture
def form_forced(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = forms.choice_of(form, C, M, tiling=forms.TILINGS[0], programs=1)
    forms.force(monkeypatch, choice)


@pytest.fixture
def small_covariance_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.import_module("gcp_kernels.ops.covariance_pool.triton.launch")
    monkeypatch.setattr(plain, "COVARIANCE", forms.TILINGS[0])


@in_every_form
@pytest.mark.usefixtures("poisoned_memory", "form_forced")
def test_bad_samples_stay_alone(form):
    check_batch(forms.pool(2), torch.randn(1, C, M), torch.randn(1, D), spreads=True)


@pytest.mark.usefixtures("poisoned_memory", "small_covariance_tiles")
@pytest.mark.parametrize("output", ["full", "triu"])
def test_bad_samples_of_a_covariance_stay_alone(output):
    grad = torch.randn(1, D) if output == "triu" else torch.randn(1, C, C)
    check_batch(forms.covariance(output=output), torch.randn(1, C, M), grad, spreads=False)


@in_every_form
@pytest.mark.usefixtures("poisoned_memory", "form_forced")
def test_bad_matrices_stay_alone(form):
    cov, grad = inputs.covariance_matrices(1, C, torch.float32).expand(5, C, C).clone(), torch.randn(1, C, C)
    alone = forms.run(forms.root(2), cov[:1], grad)
    cov[0, 17, 17], cov[1, 2, 16] = float("nan"), float("inf")
    cov[3] = 0
    value, gradient = forms.run(forms.root(2), cov, grad.expand(5, C, C))
    for result, expected in zip((value, gradient), alone, strict=True):
        assert result[:2].isnan().all()
        assert not result[3].any()
        for i in (2, 4):
            assert torch.equal(result[i], expected[0])


@in_every_form
def test_two_runs_are_bitwise_equal_and_so_is_a_sample_alone(form, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, C, M, tiling=forms.TILINGS[0], programs=2))
    x, grad = torch.randn(2, C, M), torch.randn(2, D)
    first, second = (forms.run(forms.pool(2, "fast"), x, grad) for _ in range(2))
    alone = forms.run(forms.pool(2, "fast"), x[1:].clone(), grad[1:].clone())
    for one, other, third in zip(first, second, alone, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[1:], third)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("precision", "n_iter"), [("fast", 3), ("high", 4)])
def test_forms_agree_with_one_another(precision, n_iter, monkeypatch):
    x, grad = inputs.relu_features(1, 20, 49, torch.float32), torch.randn(1, 210)
    results = []
    for form in forms.FORMS:
        forms.force(monkeypatch, forms.choice_of(form, 20, 49, tiling=forms.TILINGS[0]))
        results.append(forms.run(forms.pool(n_iter, precision), x, grad))
    for ours in results[1:]:
        for one, other in zip(ours, results[0], strict=True):
            tolerances.assert_promise_kept(one, other.double(), precision, "another form")


@in_every_form
@pytest.mark.usefixtures("form_forced")
def test_nearly_constant_samples_are_finite(form):
    """Where the squares of float32 features are subnormal or vanish, accuracy goes, but not to NaN or infinity."""
    spreads = torch.tensor([1e-12, 1e-19, 1e-21, 1e-23, 1e-38])[:, None, None]
    value, gradient = forms.run(forms.pool(1), spreads * torch.randn(5, C, M), torch.randn(5, D))
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert (value.abs() <= 10 * spreads[:, 0]).all()


@in_every_form
@pytest.mark.usefixtures("form_forced")
def test_features_whose_squares_overflow_are_nan_and_not_zero(form):
    for result in forms.run(forms.pool(1), 1e25 * torch.randn(1, C, M), torch.randn(1, D)):
        assert result.isnan().all()


@pytest.mark.sampled(2)
@in_every_form
@pytest.mark.usefixtures("form_forced")
def test_upstream_gradients_of_any_magnitude(form):
    check_gradient_of([1e30, 1e-30, 1e-37])


@pytest.mark.sampled(2)
@in_every_form
@pytest.mark.usefixtures("form_forced")
def test_subnormal_upstream_gradients(form):
    """As a sample has whose loss is all but zero."""
    check_gradient_of([1e-41, 1e-43])


@pytest.mark.sampled(4)
@in_every_form
@pytest.mark.parametrize(("n_iter", "precision"), [(12, "fast"), (12, "high"), (40, "high")])
def test_many_iterations_of_a_well_conditioned_matrix(n_iter, precision, form, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, 8, 1))
    cov = torch.eye(8) + 0.05 * inputs.covariance_matrices(1, 8, torch.float32)
    forms.check_root(cov, n_iter, precision)


@in_every_form
def test_many_iterations_with_a_dead_channel(form, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, 4, 9))
    x = torch.randn(1, 4, 9)
    x[:, 0] = 0
    grad = torch.tensor([[1, *[0.1] * 9]])
    _, gradient = forms.run(forms.pool(12), x, grad)
    assert gradient.isfinite().all()


@pytest.mark.sampled(5)
@in_every_form
@pytest.mark.usefixtures("poisoned_memory", "form_forced")
@pytest.mark.parametrize(("layout", "upstream", "output"), COMBINATIONS)
def test_strides_of_features_and_upstream_gradient_change_nothing(layout, upstream, output, form):
    shape, view = LAYOUTS[layout]
    x = view(torch.randn(shape))
    grad = UPSTREAM[upstream](torch.randn((2, D) if output == "triu" else (2, C, C)))
    ours = forms.run(forms.pool(1, output=output), x, grad)
    expected = forms.run(forms.pool(1, output=output), dense(x), dense(grad))
    forms.assert_unchanged_by_strides(ours, expected)


@in_every_form
@pytest.mark.usefixtures("poisoned_memory", "form_forced")
def test_strides_of_matrices_and_their_skew_part_change_nothing(form):
    # Of few bits, so that what is added to either side of the diagonal is exact, and so is what is left of it.
    cov = (1024 * inputs.covariance_matrices(2, C, torch.float32)).round() / 1024
    grad = torch.randn(2, C, C)
    strided = torch.stack([cov, cov], -1)[..., 1]
    strided[:, 2, 17] += 0.25
    strided[:, 17, 2] -= 0.25
    expected = forms.run(forms.root(1), cov, grad)
    ours = forms.run(forms.root(1), strided, grad.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    forms.assert_unchanged_by_strides(ours, expected)


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda scale: scale.mT.contiguous().mT,
    "sliced": lambda scale: torch.stack([scale, -scale, scale], dim=-1)[..., 1],
    "for_all_samples": lambda scale: scale[:1].expand_as(scale),
    "for_all_channels": lambda scale: scale[:, :1].expand_as(scale),
}
SCALED = [(*pair, scaled) for pair, scaled in zip(COMBINATIONS, SCALES, strict=True)]


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("poisoned_memory", "small_covariance_tiles")
@pytest.mark.parametrize(("layout", "upstream", "output", "scaled"), SCALED)
def test_strides_of_a_scaled_covariance_change_nothing(layout, upstream, output, scaled):
    shape, view = LAYOUTS[layout]
    x, scale = view(torch.randn(shape)), SCALES[scaled](torch.randn(2, C).half())
    grad = UPSTREAM[upstream](torch.randn((2, D) if output == "triu" else (2, C, C)))
    results = []
    for laid_out in (torch.Tensor.detach, dense):
        leaves = [forms.on_device(laid_out(tensor)).requires_grad_() for tensor in (x, scale)]
        value = forms.covariance(leaves[1], output=output)(leaves[0])
        found = (value.detach(), *torch.autograd.grad(value, leaves, forms.on_device(laid_out(grad))))
        results.append(tuple(one.cpu() for one in found))
    forms.assert_unchanged_by_strides(*results)
