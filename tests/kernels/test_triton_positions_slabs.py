"""The Triton kernels that iterate on the side of the positions in a slab, persistent and by phases.

Forms are forced, in tiles so small that (M, M) matrices have several. Fresh memory is poisoned with NaN: slabs, panels,
parts of sums and results.
"""

import pytest
import torch

from gcp_kernels.ops.sides import CHANNELS, POSITIONS, Side
from gcp_kernels.ops.triton_device.policy import Config, Persistent, Phases, Tiling
from tests.support import inputs, oracle, tolerances
from tests.support import triton_forms as forms
from tests.support.accuracy import name_of
from tests.support.triton_batches import COMBINATIONS, LAYOUTS, UPSTREAM, C, D, M, check_batch, dense

pytest.importorskip("triton")

from gcp_kernels.ops.isqrt_pool.triton.positions import slab_launch
from tests.support.triton_forms import interpreted, odd
from tests.support.triton_watch import Watch

FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
FORMS = ("persistent", "phases")
# Of 20 to 50 positions several tiles and several steps of a sum; and fewer, where it is about something else.
SMALL = Tiling(16, block_k=16, block_m=32, warps=1)
LARGE = Tiling(32, block_k=32, block_m=16, warps=1)

pytestmark = [pytest.mark.versions, forms.runs_here, forms.quiet, pytest.mark.usefixtures("poisoned_memory")]

in_every_form = pytest.mark.parametrize("form", FORMS)

# Form, C, M, iterations, precision, output, dtype.
FEATURES = [
    ("persistent", 33, 1, 3, "fast", "full", FLOAT32),
    ("persistent", 40, 35, 1, "fast", "triu", FLOAT16),
    ("persistent", 40, 35, 2, "high", "full", FLOAT32),
    ("persistent", 40, 32, 5, "fast", "triu", FLOAT32),
    ("persistent", 100, 33, 7, "high", "full", FLOAT16),
    ("persistent", 70, 20, 10, "high", "triu", FLOAT32),
    ("phases", 17, 2, 2, "high", "triu", FLOAT32),
    ("phases", 40, 35, 1, "high", "full", FLOAT32),
    ("phases", 40, 36, 3, "fast", "triu", BFLOAT16),
    ("phases", 70, 50, 5, "high", "triu", FLOAT32),
    ("phases", 70, 20, 10, "fast", "full", FLOAT32),
]


def choice_of(
    form: str, c: int, m: int, *, tiling: Tiling = SMALL, programs: int = 2, side: Side = POSITIONS
) -> Config:
    """Give a launch in ``form``, with three parts of a Gram matrix where there are as many channels."""
    if form == "persistent":
        return Persistent(tiling, programs, side=side)
    summed = c if side == POSITIONS else m
    chunk = -(-summed // (3 * tiling.block_m)) * tiling.block_m
    return Phases(tiling, splits=-(-summed // chunk), chunk=chunk, side=side)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("form", "c", "m", "n_iter", "precision", "output", "dtype"), FEATURES, ids=name_of)
def test_features(form, c, m, n_iter, precision, output, dtype, monkeypatch):
    forms.force(monkeypatch, choice_of(form, c, m, tiling=SMALL if c <= 40 else LARGE))
    forms.check_pooling(inputs.relu_features(3 if m <= 2 else 1, c, m, dtype), n_iter, precision, output)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("spectrum", [name for name in inputs.SPECTRA if name != "relu"])
def test_spectra(spectrum, monkeypatch):
    index = list(inputs.SPECTRA).index(spectrum)
    forms.force(monkeypatch, choice_of(FORMS[index % 2], 40, 20, tiling=LARGE))
    precision = ("fast", "high")[index // 2 % 2]
    forms.check_pooling(inputs.SPECTRA[spectrum](1, 40, 20, FLOAT32), 5, precision, "full")


@pytest.mark.parametrize(("form", "n_iter", "precision"), [("persistent", 20, "high"), ("phases", 20, "fast")])
def test_many_iterations(form, n_iter, precision, monkeypatch):
    """The vector of ones, which z takes to zero, lets no rounding grow."""
    forms.force(monkeypatch, choice_of(form, 60, 20, tiling=LARGE))
    forms.check_pooling(inputs.relu_features(1, 60, 20, FLOAT32), n_iter, precision, "triu")


@pytest.mark.thorough
def test_many_iterations_of_a_constant_sample(monkeypatch):
    """Its factor would grow to 1.5^40; and that of the sample beside it is kept in the same unit."""
    forms.force(monkeypatch, choice_of("persistent", 40, 9, programs=1))
    x, grad = inputs.relu_features(2, 40, 9, FLOAT32), torch.randn(2, 40, 40)
    x[0] = 3
    value, gradient = forms.run(forms.pool(40, "high", "full"), x, grad)
    assert not value[0].any()
    assert not gradient[0].any()
    tolerances.assert_promise_kept(value, oracle.isqrt_pool(x, 40), "high", "value")
    tolerances.assert_promise_kept(gradient, oracle.isqrt_pool_grad(x, 40, grad.double()), "high", "gradient")


@in_every_form
def test_bad_samples_stay_alone(form, monkeypatch):
    """In several tiles of K, and in one."""
    m = 17 if form == "persistent" else 9
    forms.force(monkeypatch, choice_of(form, C, m, programs=1))
    check_batch(forms.pool(2), torch.randn(1, C, m), torch.randn(1, D), spreads=True)


@in_every_form
def test_two_runs_are_bitwise_equal_and_so_is_a_sample_alone(form, monkeypatch):
    forms.force(monkeypatch, choice_of(form, C, M))
    x, grad = torch.randn(3, C, M), torch.randn(3, D)
    first, second = (forms.run(forms.pool(3, "fast"), x, grad) for _ in range(2))
    alone = forms.run(forms.pool(3, "fast"), x[1:2].clone(), grad[1:2].clone())
    for one, other, third in zip(first, second, alone, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[1:2], third)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["fast", "high"])
def test_forms_and_sides_agree_with_one_another(precision, monkeypatch):
    x, grad = inputs.relu_features(1, 40, 20, FLOAT32), torch.randn(1, 820)
    results = []
    for form, side in (("persistent", CHANNELS), ("persistent", POSITIONS), ("phases", POSITIONS)):
        forms.force(monkeypatch, choice_of(form, 40, 20, side=side))
        results.append(forms.run(forms.pool(3, precision), x, grad))
    for ours in results[1:]:
        for one, other in zip(ours, results[0], strict=True):
            tolerances.assert_promise_kept(one, other.double(), precision, "another form or side")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("magnitude", [1e30, 1e-37, 1e-41])
def test_upstream_gradients_of_any_magnitude(magnitude, monkeypatch):
    forms.force(monkeypatch, choice_of("persistent", C, M))
    x, grad = torch.randn(1, C, M), magnitude * torch.randn(1, D)
    _, gradient = forms.run(forms.pool(1), x, grad)
    exact = oracle.isqrt_pool_grad(x, 1, oracle.triangle_grad(grad.double(), C))
    subnormal = torch.finfo(FLOAT32).smallest_normal * torch.finfo(FLOAT32).eps
    bound = tolerances.PROMISE["high"] * exact.norm() + 4 * subnormal * exact.numel() ** 0.5
    assert (gradient.double() - exact).norm() <= bound


@pytest.mark.sampled(3)
@in_every_form
@pytest.mark.parametrize(("layout", "upstream", "output"), COMBINATIONS)
def test_strides_change_nothing(form, layout, upstream, output, monkeypatch):
    forms.force(monkeypatch, choice_of(form, C, M))
    shape, view = LAYOUTS[layout]
    x = view(torch.randn(shape))
    grad = UPSTREAM[upstream](torch.randn((2, D) if output == "triu" else (2, C, C)))
    ours = forms.run(forms.pool(1, output=output), x, grad)
    forms.assert_unchanged_by_strides(ours, forms.run(forms.pool(1, output=output), dense(x), dense(grad)))


@in_every_form
def test_wide_offsets_change_nothing(form, monkeypatch):
    forms.force(monkeypatch, choice_of(form, C, M))
    x, grad = torch.randn(1, C, M), torch.randn(1, C, C)
    narrow = forms.run(forms.pool(1, output="full"), x, grad)
    monkeypatch.setattr(slab_launch, "is_wide", lambda *_: True)
    for ours, same in zip(forms.run(forms.pool(1, output="full"), x, grad), narrow, strict=True):
        assert torch.equal(ours, same)


@interpreted
@pytest.mark.parametrize("output", ["triu", "full"])
@in_every_form
def test_features_are_pooled_without_races_or_stray_accesses(form, output, monkeypatch):
    forms.force(monkeypatch, choice_of(form, 20, 17, programs=1))
    watch = Watch(monkeypatch)
    n_iter = 3 if output == "triu" else 1
    grad = odd(2, 210) if output == "triu" else odd(2, 20, 20)
    forms.run(forms.pool(n_iter, "high", output), odd(2, 20, 17), grad)
    assert watch.launches == (15 + 4 * (n_iter - 1) if form == "phases" else 2)


@interpreted
def test_high_keeps_its_promise_where_bits_are_cut_off(monkeypatch):
    """On the spectrum that errs most, in the longest steps of a sum that are shipped."""
    from tests.support.tensor_cores import AMPERE

    AMPERE.install(monkeypatch)
    forms.force(monkeypatch, Persistent(Tiling(64, block_k=64, block_m=64, warps=4), 1, side=POSITIONS))
    x, grad = inputs.SPECTRA["rank_one_plus_noise"](1, 128, 49, FLOAT32), torch.randn(1, 128, 128)
    value, gradient = forms.run(forms.pool(5, "high", "full"), x, grad)
    tolerances.assert_promise_kept(value, oracle.isqrt_pool(x, 5), "high", "value")
    tolerances.assert_promise_kept(gradient, oracle.isqrt_pool_grad(x, 5, grad.double()), "high", "gradient")
