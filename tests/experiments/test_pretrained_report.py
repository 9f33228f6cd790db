"""The report of the experiment behind a pretrained network: made-up runs, and what it has to say of them."""

import re
from dataclasses import replace
from math import nan

import pytest

from experiments.pretrained.costs import ON_CHANNELS, Cost
from experiments.pretrained.experiment import FROZEN, STAGES, TUNED, Outcome, Settings, Trial, as_hexadecimal
from experiments.pretrained.heads import AVERAGE, Head
from experiments.pretrained.report import report
from experiments.pretrained.results import About, Results, verdict_rows
from gcp_kernels.nn.poolings import BASELINE

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")
pytestmark = pytest.mark.same_without_gpu

PLAIN, REDUCED = Head("gcp"), Head("gcp", 64)
SETTINGS = Settings(
    data=("noise",), frozen=(AVERAGE, PLAIN, REDUCED), tuned=(AVERAGE, PLAIN), frozen_rates=(0.1, 0.2, 0.4),
    tuned_rates=(0.1, 0.2, 0.4), frozen_seeds=3, tuned_seeds=3,
)  # fmt: skip
ABOUT = About(2, "made up", "none", {"training": 20, "validation": 8, "test": 1000}, (16, 16), (128, 2, 2))
COSTS = {BASELINE: 0.5, "gcp": 4.0, "gcp-64": 1.25, ON_CHANNELS: 1590.4}


def knowing(accuracy):
    """Make a run that knows the first of 1000 images."""
    return Outcome(accuracy, 1.0, (1.0,), 2.0, as_hexadecimal([image < 10 * accuracy for image in range(1000)]))


def made(plain, reduced, rates=None, grid=(90.0, 91.0, nan)):
    """Make results in which average pooling has 90, 91 and 92 %, and the others so many points more."""
    rates = rates or {}
    results = Results(SETTINGS, {"noise": ABOUT}, costs={name: Cost(cost, nan) for name, cost in COSTS.items()})
    ahead = {AVERAGE: 0.0, PLAIN: plain, REDUCED: reduced}
    for stage in STAGES:
        for head in SETTINGS.heads(stage):
            results.rates[stage, "noise", head] = rate = rates.get((stage, head), 0.2)
            for tried, accuracy in zip(SETTINGS.rates(stage), grid, strict=True):
                results.grid[Trial(stage, "noise", head, tried, 0, "validation")] = Outcome(accuracy, 1.0, (1.0,), 2.0)
            for seed in range(3):
                trial = Trial(stage, "noise", head, rate, seed, "test")
                results.final[trial] = knowing(90.0 + seed + ahead[head])
    return results


def test_the_report_says_what_the_numbers_say():
    text = report(made(plain=2.0, reduced=-1.0), ["`the command`"])
    assert "- `the command`\n- 30 runs, 60 s of processor time" in text
    ours, theirs, less = "93.0 ± 1.0", "91.0 ± 1.0", "90.0 ± 1.0"
    assert f"| noise | frozen | GCP, no reduction | {theirs} | {ours} | 2.00 ± 0.64 | **supported** |" in text
    assert f"| noise | frozen | GCP, 64 channels | {theirs} | {less} | -1.00 ± 0.35 | not supported |" in text
    assert f"| noise | frozen | GCP, 64 channels | {ours} | {less} | -3.00 ± 0.88 | not supported |" in text
    assert (
        "- noise, frozen: Ahead of average pooling: GCP, no reduction. Behind it beyond the margin: GCP, 64 channels. "
        "Highest mean: GCP, no reduction (93.0 %)."
    ) in text
    assert "128 channels at 2x2 positions" in text
    assert "has 8256 inputs" in text
    assert "iterates on the side of the 4 positions, which is smaller: 4 ms instead of 1590 ms." in text
    assert "| GCP, no reduction, iterated on the covariance | 1590 | not measured |" in text
    assert "nan" not in text


def test_the_report_of_other_numbers_says_the_opposite():
    text = report(made(plain=-2.0, reduced=-2.0), [])
    assert "**supported**" not in text
    behind = "Behind it beyond the margin: GCP, no reduction; GCP, 64 channels. "
    assert f"- noise, frozen: Ahead of average pooling: none. {behind}" in text
    assert "Highest mean: average pooling (91.0 %)." in text


def test_the_grid_is_shown_whole_and_its_ends_are_named():
    text = report(made(2.0, 2.0), [])
    assert text.count("| GCP, no reduction | 90.0 | **91.0** | diverged |") == 2
    assert "None of them lies at an end of its grid." in text
    text = report(made(2.0, 2.0, rates={(TUNED, PLAIN): 0.1}), [])
    assert "| GCP, no reduction | **90.0** | 91.0 | diverged |" in text
    further = made(2.0, 2.0, rates={(FROZEN, PLAIN): 0.8})
    further.grid[Trial(FROZEN, "noise", PLAIN, 0.8, 0, "validation")] = Outcome(93.0, 1.0, (1.0,), 2.0)
    wider = report(further, [])
    assert "| noise, frozen | 0.1 | 0.2 | 0.4 | 0.8 |" in wider
    assert "| GCP, no reduction | 90.0 | 91.0 | diverged | **93.0** |" in wider
    assert "| GCP, 64 channels | 90.0 | **91.0** | diverged |  |" in wider
    assert "there is one rate more, at most 2 times. The networks above" in wider
    assert "might do better: GCP, no reduction on noise, frozen." in wider
    assert "At an end of the grid, where a wider one might do better: GCP, no reduction on noise, fine-tuned." in text


def test_a_seed_that_diverged_decides_nothing():
    results = made(2.0, 2.0)
    results.final[Trial(FROZEN, "noise", PLAIN, 0.2, 1, "test")] = Outcome(nan, nan, (nan,), 2.0)
    (row,) = (r for r in verdict_rows(results) if (r["network"], r["pooling"]) == (FROZEN, "gcp"))
    assert row["verdict"] == "undecided"
    text = report(results, [])
    assert "| no number in 1 of 3 seeds | no number in 1 of 3 seeds | undecided |" in text
    assert "Highest mean: GCP, 64 channels (93.0 %)." in text


def test_a_gain_that_other_test_images_might_not_show_decides_nothing():
    """One more of 1000 images with every seed: no deviation over seeds, and yet chance."""
    results = made(plain=0.1, reduced=2.0)
    found = results.verdict(FROZEN, "noise", PLAIN)
    assert (found.gain, found.outcome) == (pytest.approx(0.1), "undecided")
    # By image, the mean over seeds.
    gains = [0.0] * 1000
    for seed in range(3):
        for image in range(900 + 10 * seed, 901 + 10 * seed):
            gains[image] += 100 / 3
    stats = pytest.importorskip("scipy.stats")
    low, high = stats.t.interval(0.95, 999, sum(gains) / 1000, stats.sem(gains))
    assert found.margin == pytest.approx((high - low) / 2)
    (row,) = (r for r in verdict_rows(results) if (r["network"], r["pooling"]) == (FROZEN, "gcp"))
    assert row["margin"] == row["margin_of_images"] == found.margin


def test_the_margin_is_of_seeds_and_of_images():
    """Neither contains the other: variances add."""
    stats = pytest.importorskip("scipy.stats")
    results = made(plain=2.0, reduced=2.0)
    of_seeds = (4.0, 1.0, 2.5)
    for seed, gain in enumerate(of_seeds):
        results.final[Trial(FROZEN, "noise", PLAIN, 0.2, seed, "test")] = knowing(90.0 + seed + gain)
    low, high = stats.t.interval(0.95, 2, 2.5, stats.sem(of_seeds))
    images = results.margin_of_images(FROZEN, "noise", PLAIN)
    assert 0.1 < images < 1
    found = results.verdict(FROZEN, "noise", PLAIN)
    assert found.margin == pytest.approx((((high - low) / 2) ** 2 + images**2) ** 0.5)
    assert found.outcome == "undecided"


def test_a_seed_that_makes_most_of_the_deviation_is_named():
    results = made(plain=2.0, reduced=2.0)
    results.settings = replace(SETTINGS, frozen_seeds=4)
    for head in SETTINGS.frozen:
        accuracies = (90.2, 90.0, 90.1, 80.0) if head == PLAIN else (90.0, 91.0, 92.0, 93.0)
        for seed, accuracy in enumerate(accuracies):
            results.final[Trial(FROZEN, "noise", head, 0.2, seed, "test")] = knowing(accuracy)
    sentence = "One seed is far from the others: GCP, no reduction on noise, frozen (80 %, the others 90 to 90.2 %).\n"
    assert sentence in report(results, [])
    assert "One seed is far" not in report(made(plain=2.0, reduced=-1.0), [])


def test_a_covariance_is_held_against_average_pooling_behind_the_same_reduction():
    settings = replace(SETTINGS, frozen=(AVERAGE, Head("avg", 64), PLAIN, REDUCED))
    ahead = {AVERAGE: 0.0, Head("avg", 64): 3.0, PLAIN: 2.0, REDUCED: 5.0}
    results = made(0.0, 0.0)
    results.settings = settings
    for head in settings.frozen:
        results.rates[FROZEN, "noise", head] = 0.2
        for rate in settings.frozen_rates:
            results.grid[Trial(FROZEN, "noise", head, rate, 0, "validation")] = Outcome(90.0, 1.0, (1.0,), 2.0)
        for seed in range(3):
            results.final[Trial(FROZEN, "noise", head, 0.2, seed, "test")] = knowing(90.0 + seed + ahead[head])
    results.costs = {**results.costs, "avg-64": Cost(0.7, nan)}
    text = report(results, [])
    behind = text.split("## Behind the same reduction")[1].split("\n## ")[0]
    assert re.findall(r"\| noise \| frozen \| (.*?) \| .* \| (\S+) ± \S+ \| (.*) \|", behind) == [
        ("GCP, 64 channels", "2.00", "**supported**")
    ]
    assert "- noise, frozen: Ahead: GCP, 64 channels. Behind beyond the margin: none." in behind
    without = text.split("## With and without a reduction")[1].split("\n## ")[0]
    assert [row[0] for row in re.findall(r"\| noise \| frozen \| (.*?) \| .* \| (\S+) ± ", without)] == [
        "GCP, 64 channels"
    ]
    against = [(row["pooling"], row["against"]) for row in verdict_rows(results) if row["network"] == FROZEN]
    assert against == [
        ("avg-64", "avg"), ("gcp", "avg"), ("gcp-64", "avg"), ("gcp-64", "gcp"), ("gcp-64", "avg-64"),
    ]  # fmt: skip
