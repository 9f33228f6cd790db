"""isqrt_pool in Triton on the side of the positions, on chip: exact values, promises, special cases, memory.

Channels are in three blocks of 16 or 32 where they are few enough, else in blocks of 64. Fresh memory is poisoned.
"""

import pytest
import torch

from tests.support import inputs, oracle, tolerances
from tests.support import triton_forms as forms
from tests.support.accuracy import name_of
from tests.support.triton_batches import COMBINATIONS, LAYOUTS, UPSTREAM, C, D, M, check_batch, check_gradient_of, dense

pytest.importorskip("triton")

from gcp_kernels.ops.isqrt_pool.triton import launch as isqrt
from gcp_kernels.ops.sides import CHANNELS
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import OnChip
from tests.support.triton_watch import Watch

FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16

pytestmark = [pytest.mark.versions, forms.runs_here, forms.quiet, pytest.mark.usefixtures("poisoned_memory")]

# C, M, iterations, precision, output, dtype; every second one by programs that share a sample.
FEATURES = [
    (17, 1, 3, "fast", "full", FLOAT32),
    (17, 2, 1, "high", "triu", FLOAT32),
    (17, 9, 10, "high", "full", FLOAT32),
    (64, 9, 5, "fast", "triu", FLOAT16),
    (64, 49, 7, "fast", "full", FLOAT32),
    (100, 49, 5, "high", "triu", FLOAT32),
    (100, 64, 3, "high", "full", FLOAT16),
    (256, 49, 5, "fast", "triu", BFLOAT16),
    (256, 100, 2, "fast", "full", FLOAT32),
    (520, 64, 2, "high", "triu", FLOAT32),
    (520, 128, 1, "fast", "triu", FLOAT32),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("c", "m", "n_iter", "precision", "output", "dtype"), FEATURES, ids=name_of)
def test_features(c, m, n_iter, precision, output, dtype, monkeypatch):
    form = forms.POSITION_FORMS[FEATURES.index((c, m, n_iter, precision, output, dtype)) % 2]
    forms.force(monkeypatch, forms.choice_of(form, c, m))
    forms.check_pooling(inputs.relu_features(2 if c <= 17 else 1, c, m, dtype), n_iter, precision, output)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("spectrum", [name for name in inputs.SPECTRA if name != "relu"])
def test_the_promise_is_kept_on_every_spectrum(spectrum, precision, monkeypatch):
    form = forms.POSITION_FORMS[list(inputs.SPECTRA).index(spectrum) % 2]
    forms.force(monkeypatch, forms.choice_of(form, 100, 49))
    forms.check_pooling(
        inputs.SPECTRA[spectrum](1, 100, 49, FLOAT32), 7 if precision == "fast" else 5, precision, "full"
    )


@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("n_iter", [20, 30])
def test_the_promise_is_kept_after_many_iterations(n_iter, precision, monkeypatch):
    """Where positions but for one are independent: no rounding error has a null space to grow in."""
    forms.force(monkeypatch, forms.choice_of("positions", 64, 20))
    forms.check_pooling(inputs.relu_features(1, 64, 20, FLOAT32), n_iter, precision, "triu")


def test_both_sides_agree(monkeypatch):
    x, grad = inputs.relu_features(1, 64, 33, FLOAT32), torch.randn(1, 64, 64)
    for precision in ("fast", "high"):
        results = []
        for form in ("positions", "on_chip"):
            forms.force(monkeypatch, forms.choice_of(form, 64, 33))
            results.append(forms.run(forms.pool(5, precision, "full"), x, grad))
        for ours, other in zip(*results, strict=True):
            tolerances.assert_promise_kept(ours, other.double(), precision, "on the other side")


def test_shared_samples_are_the_same(monkeypatch):
    x, grad = inputs.relu_features(1, 40, 9, FLOAT32), torch.randn(1, 820)
    results = []
    for form in forms.POSITION_FORMS:
        forms.force(monkeypatch, forms.choice_of(form, 40, 9))
        results.append(forms.run(forms.pool(2, "high"), x, grad))
    for one, other in zip(*results, strict=True):
        tolerances.assert_promise_kept(one, other.double(), "high", "shared")
        if forms.INTERPRETED:
            assert torch.equal(one, other)


def test_bad_samples_stay_alone(monkeypatch):
    forms.force(monkeypatch, forms.choice_of("positions", C, M))
    check_batch(forms.pool(2), torch.randn(1, C, M), torch.randn(1, D), spreads=True)


def test_constant_samples_are_zero_after_any_number_of_iterations(monkeypatch):
    forms.force(monkeypatch, forms.choice_of("positions_shared", C, M))
    x = torch.linspace(-3.3, 1e4, C)[None, :, None].expand(1, C, M)
    for result in forms.run(forms.pool(40, "fast"), x, torch.randn(1, D)):
        assert not result.any()


@pytest.mark.parametrize("magnitudes", [[1e30, 1e-30, 1e-37], [1e-41, 1e-43]])
def test_upstream_gradients_of_any_magnitude(magnitudes, monkeypatch):
    forms.force(monkeypatch, forms.choice_of("positions", C, M))
    check_gradient_of(magnitudes)


def test_an_upstream_gradient_that_is_in_other_channels_alone(monkeypatch):
    """P = z^T H is zero where H = 2 G z is not, and the largest magnitudes of two blocks of rows are far apart."""
    forms.force(monkeypatch, forms.choice_of("positions", 40, 9))
    x, grad = torch.randn(1, 40, 9), torch.zeros(1, 40, 40)
    x[:, 20:] = 0
    grad[:, :20, 20:] = torch.randn(20, 20)
    grad[:, 1:3, 30:] *= 1e-12
    _, gradient = forms.run(forms.pool(3, "high", "full"), x, grad)
    exact = oracle.isqrt_pool_grad(x, 3, (grad.double() + grad.double().mT) / 2)
    tolerances.assert_promise_kept(gradient, exact, "high", "gradient")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("layout", "upstream", "output"), COMBINATIONS)
def test_strides_of_features_and_upstream_gradient_change_nothing(layout, upstream, output, monkeypatch):
    form = forms.POSITION_FORMS[COMBINATIONS.index((layout, upstream, output)) % 2]
    forms.force(monkeypatch, forms.choice_of(form, C, M))
    shape, view = LAYOUTS[layout]
    x = view(torch.randn(shape))
    grad = UPSTREAM[upstream](torch.randn((2, D) if output == "triu" else (2, C, C)))
    ours = forms.run(forms.pool(1, output=output), x, grad)
    expected = forms.run(forms.pool(1, output=output), dense(x), dense(grad))
    forms.assert_unchanged_by_strides(ours, expected)


@pytest.mark.skipif(not forms.INTERPRETED, reason="kernels are watched in the interpreter")
@pytest.mark.parametrize(("form", "m", "output"), [("positions", 33, "triu"), ("positions_shared", 9, "full")])
def test_no_phase_reads_what_it_writes(form, m, output, monkeypatch):
    """Nor is memory touched that is of no argument. Of 33 positions, W waits in memory for Z."""
    forms.force(monkeypatch, forms.choice_of(form, C, m))
    watch = Watch(monkeypatch)
    grad = torch.randn(2, D) if output == "triu" else torch.randn(2, C, C)
    forms.run(forms.pool(3, "high", output), inputs.relu_features(2, C, m, FLOAT32), grad)
    assert watch.launches == (5 if form == "positions_shared" else 2)


def test_wide_offsets_change_nothing(monkeypatch):
    forms.force(monkeypatch, forms.choice_of("positions_shared", C, M))
    x, grad = torch.randn(1, C, M), torch.randn(1, C, C)
    narrow = forms.run(forms.pool(2, output="full"), x, grad)
    monkeypatch.setattr("gcp_kernels.ops.isqrt_pool.triton.positions.launch.is_wide", lambda *_: True)
    for ours, same in zip(forms.run(forms.pool(2, output="full"), x, grad), narrow, strict=True):
        assert torch.equal(ours, same)


@pytest.mark.parametrize(("b", "c", "m", "shared"), [(1, 260, 9, True), (2, 40, 16, False)])
def test_shipped_launches(b, c, m, shared, monkeypatch):
    arch = Architecture(90, 4)
    monkeypatch.setattr(isqrt, "architecture", lambda device: arch)
    for choose in (isqrt.policy.isqrt_forward, isqrt.policy.isqrt_backward):
        choice = choose(b, c, m, "high", arch)
        assert isinstance(choice, OnChip)
        assert choice.side != CHANNELS
        assert choice.shared == shared
    forms.check_pooling(inputs.relu_features(b, c, m, FLOAT32), 2, "high", "triu")
