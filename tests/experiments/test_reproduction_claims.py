"""Figures of runs with known answers, and the rule of verdicts in every outcome."""

import math
from dataclasses import replace

import pytest

from experiments.reproduction.claims import (
    CLAIMS,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    Measure,
    measures,
    of_claim,
    spread,
    student,
    verdict,
    verdicts,
)
from experiments.reproduction.corruptions import DIGITS
from experiments.reproduction.figures import figures_of, worst_residual
from tests.support.reproduction_runs import made_run

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")

NAMES = tuple(DIGITS)
MEASURES = measures(NAMES)
LOWER = Measure(6, "made_up", "a number that should be small")
HIGHER = Measure(4, "made_up", "a number that should be large", higher_is_better=True)


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ([1.0, 1.1, 0.9], SUPPORTED),
        ([1.0, 1.0, 1.0], SUPPORTED),
        ([1.0, -0.9, 0.1], UNDECIDED),
        ([2.0, 0.1], UNDECIDED),  # all in the claimed direction, and two seeds are too few to say so
        ([1.0, 1.0], UNDECIDED),  # a margin of zero, by chance
        ([-1.0, -1.0], NOT_SUPPORTED),
        ([0.0, 0.0, 0.0], NOT_SUPPORTED),
        ([-1.0, -1.1, -0.9], NOT_SUPPORTED),
        ([-1.0, 0.5, 0.4], NOT_SUPPORTED),
        ([1.0], UNDECIDED),
        ([-1.0], UNDECIDED),
        ([math.nan, 1.0, 1.0], UNDECIDED),
        ([math.inf, 1.0, 1.0], UNDECIDED),
        ([-math.inf, 1.0, 1.0], NOT_SUPPORTED),
    ],
)
@pytest.mark.parametrize("measure", [LOWER, HIGHER])
def test_every_outcome(measure, gains, outcome):
    baseline = [10.0 + seed for seed in range(len(gains))]
    sign = 1 if measure.higher_is_better else -1
    figures = [theirs + sign * gain for theirs, gain in zip(baseline, gains, strict=True)]
    assert verdict(measure, "gcp", baseline, figures).outcome == outcome


def test_differences_are_paired():
    """Seeds that differ by far more than the poolings do are no doubt about a difference that all of them show."""
    result = verdict(HIGHER, "gcp", [10.0, 50.0, 90.0], [11.0, 51.1, 90.9])
    assert result.outcome == SUPPORTED
    assert result.spread > 30
    assert result.gain == pytest.approx(1.0)
    assert result.margin == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)


def test_student_quantiles():
    """Against what is printed in tables; for very many degrees it is the quantile of the normal distribution."""
    assert student(0) == math.inf
    for degrees, printed in {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 30: 2.042, 100: 1.984, 10**6: 1.960}.items():
        assert student(degrees) == pytest.approx(printed, abs=5e-4)


def test_spread_is_that_of_a_sample():
    assert spread([1.0, 2.0, 3.0]) == 1.0
    assert math.isnan(spread([1.0]))
    assert math.isnan(spread([1.0, math.inf]))


@pytest.mark.parametrize("figures", [[], [1.0], [1.0, 2.0, 3.0]])
def test_figures_without_their_counterpart_are_refused(figures):
    with pytest.raises(ValueError, match=f"average pooling has, got {len(figures)}"):
        verdict(LOWER, "gcp", [1.0, 2.0], figures)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((SUPPORTED, SUPPORTED), SUPPORTED),
        ((SUPPORTED, UNDECIDED), UNDECIDED),
        ((SUPPORTED, NOT_SUPPORTED), NOT_SUPPORTED),
        ((UNDECIDED, NOT_SUPPORTED), NOT_SUPPORTED),
    ],
)
def test_a_claim_wants_all_of_its_measures_and_no_relative_one(outcomes, expected):
    gains = {SUPPORTED: [1.0] * 3, UNDECIDED: [2.0, 0.1, 0.1], NOT_SUPPORTED: [-1.0] * 3}
    nothing = [0.0] * 3
    made = [verdict(HIGHER, "gcp", nothing, gains[outcome]) for outcome in outcomes]
    relative = Measure(4, "made_up", "relative", higher_is_better=True, relative=True)
    others = [
        verdict(relative, "gcp", nothing, gains[NOT_SUPPORTED]),
        verdict(HIGHER, "dropcov", nothing, gains[NOT_SUPPORTED]),
        verdict(LOWER, "gcp", nothing, [1.0] * 3),
    ]
    assert of_claim(4, "gcp", made + others) == expected
    assert of_claim(1, "gcp", made + others) == NOT_MEASURED


def test_every_claim_has_a_measure_that_counts():
    assert {measure.claim for measure in MEASURES if not measure.relative} == set(CLAIMS)
    assert len({measure.key for measure in MEASURES}) == len(MEASURES)


def test_figures_with_known_answers():
    runs = [
        made_run("gcp", 1, accuracies=(97.0, 96.0, 99.0), corrupted=90.0, band=0.5, distance=0.1, rise=0.5),
        made_run("avg", 1, accuracies=(95.0, 98.0, 97.0)),
        made_run("avg", 0, accuracies=(80.0, 90.0, 97.5)),
        made_run("gcp", 0, accuracies=(90.0, 97.0, 97.4), corrupted=60.0, eigenvalue=3.0),
    ]
    figures = figures_of(runs)
    assert figures["loss_range"] == {"gcp": [1.0, 0.5], "avg": [1.0, 1.0]}  # seeds in ascending order
    assert figures["loss_range_relative"]["gcp"] == [2.0, 1.0]
    assert figures["gradient_distance"]["gcp"] == [0.5, 0.1]
    assert figures["gradient_distance_relative"]["gcp"] == [2.0, 0.4]
    assert figures["beta"]["gcp"] == pytest.approx([0.05, 0.01])
    assert figures["epochs_to_target"] == {"gcp": [math.inf, 1.0], "avg": [3.0, 2.0]}
    assert figures["accuracy"]["gcp"] == [97.4, 99.0]
    assert figures["accuracy_blur"]["gcp"] == pytest.approx([60.0, 90.0])
    assert figures["corruption_error"]["avg"] == pytest.approx([100.0, 100.0])
    assert figures["corruption_error"]["gcp"] == pytest.approx([200.0, 50.0])
    assert figures["accuracy_lost"]["gcp"] == pytest.approx([37.4, 9.0])
    assert figures["hessian_eigenvalue"]["gcp"] == [3.0, 2.0]
    assert figures["surface_rise"]["gcp"] == pytest.approx([0.25, 0.5])
    assert figures["surface_rise_relative"]["gcp"] == pytest.approx([2.0, 4.0])
    assert set(figures) == {measure.key for measure in MEASURES}
    assert len(verdicts(figures, NAMES)) == len(MEASURES)
    by_key = {v.measure.key: v for v in verdicts(figures, NAMES)}
    assert by_key["epochs_to_target"].outcome == NOT_SUPPORTED
    assert by_key["epochs_to_target"].mean == math.inf


def test_a_quotient_by_zero_is_no_number_and_decides_nothing():
    """Average pooling that makes no error under noise, a loss of zero, a gradient of zero."""
    runs = [made_run(pool, seed) for pool in ("avg", "gcp") for seed in range(3)]
    for run in runs:
        run.robustness.update({key: 100.0 for key in run.robustness if key[0] == "noise" and run.pool == "avg"})
        for row in run.walks:
            row.update(loss=0.0, gradient_norm=0.0)
    runs = [replace(run, flatness=replace(run.flatness, loss=0.0)) for run in runs]
    by_key = {v.measure.key: v for v in verdicts(figures_of(runs), NAMES)}
    for key in ("corruption_error", "loss_range_relative", "gradient_distance_relative", "surface_rise_relative"):
        assert math.isnan(by_key[key].mean), key
        assert by_key[key].outcome == UNDECIDED, key
    assert by_key["accuracy_noise"].outcome == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("eigenvalue", "residual", "figure"),
    [(-2.0, 0.2, 2.0), (-2.0, 0.21, math.nan), (0.0, 0.0, 0.0), (0.0, 1.0, math.nan), (math.nan, math.nan, math.nan)],
)
def test_an_eigenvalue_far_from_converged_is_no_number(eigenvalue, residual, figure):
    runs = [made_run(pool, seed) for pool in ("avg", "gcp") for seed in range(3)]
    assert verdicts(figures_of(runs), NAMES)[-3].measure.key == "hessian_eigenvalue"
    flatness = replace(runs[-1].flatness, eigenvalue=eigenvalue, residual=residual)
    runs[-1] = replace(runs[-1], flatness=flatness)
    found = figures_of(runs)["hessian_eigenvalue"]
    assert found["gcp"] == pytest.approx([2.0, 2.0, figure], nan_ok=True)
    assert found["avg"] == [2.0] * 3
    if math.isnan(figure):
        assert verdicts(figures_of(runs), NAMES)[-3].outcome == UNDECIDED
    worst = math.nan if math.isnan(eigenvalue) else max(0.005, flatness.relative_residual)
    assert worst_residual(runs) == pytest.approx(worst, nan_ok=True)


def test_figures_want_the_same_seeds_of_every_pool():
    with pytest.raises(ValueError, match="every pool needs the seeds of 'avg'"):
        figures_of([made_run("avg", 0), made_run("gcp", 1)])
    with pytest.raises(ValueError, match="every pool needs the seeds of 'avg'"):
        figures_of([made_run("gcp", 0)])
