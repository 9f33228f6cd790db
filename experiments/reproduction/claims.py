"""The papers' claims, and what a run says to each: a verdict by one rule from the paired differences over seeds.

The rule. For a measure, every seed gives one difference between average pooling and the other pooling, counted positive
in the direction that is claimed: the gain. Its mean over n seeds has the margin t s / sqrt(n), where s is the standard
deviation of the gains and t the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom.

- supported: the mean gain exceeds its margin;
- not supported: the mean gain is zero or negative;
- undecided: positive, but within the margin or from fewer than three seeds; or one seed only; or no number.

The spread of two gains says next to nothing, and two counts that happen to be equal have none at all.

A claim with several measures is supported if all are, not supported if one is not supported, otherwise undecided; not
measured if it has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan, sqrt
from statistics import stdev

from gcp_kernels.nn.poolings import BASELINE as BASELINE  # handed on to those who read claims

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
# Only measures of the landscape can be missing, where no walk was recorded.
NOT_MEASURED = "not measured: no training step was recorded"
SEEDS_TO_SUPPORT = 3

CLAIMS = {
    1: "the loss is smoother",
    2: "gradients are more predictive",
    3: "average pooling's final accuracy is reached in fewer epochs",
    4: "the final accuracy is higher",
    5: "predictions are more robust to corruptions",
    6: "the minima are flatter",
}


@dataclass(frozen=True)
class Measure:
    """A number for each run that bears on a claim.

    ``relative`` ones, where the scale of loss or gradient is divided out, are not the papers': they are
    shown with the claim and do not decide its verdict. ``infinite`` says in words what a figure of infinity is.
    """

    claim: int
    key: str
    text: str
    higher_is_better: bool = False
    relative: bool = False
    infinite: str = "infinite"


def measures(corruptions: Sequence[str]) -> tuple[Measure, ...]:
    """List the measures of a data set with these corruptions."""
    of_robustness = (
        Measure(5, f"accuracy_{name}", f"accuracy under {name}, mean of 5 strengths, %", True) for name in corruptions
    )
    return (*BEFORE_ROBUSTNESS, *of_robustness, *AFTER_ROBUSTNESS)


ACCURACY = Measure(4, "accuracy", "final test accuracy, %", higher_is_better=True)
BEFORE_ROBUSTNESS = (
    Measure(1, "loss_range", "range of the loss along its gradient, mean over training"),
    Measure(1, "beta", "effective beta-smoothness, mean over training"),
    Measure(1, "loss_range_relative", "range of the loss / loss", relative=True),
    Measure(2, "gradient_distance", "largest distance between gradients along the walk, mean over training"),
    Measure(2, "gradient_distance_relative", "that distance / norm of the gradient", relative=True),
    Measure(3, "epochs_to_target", "epochs to average pooling's final accuracy", infinite="never reached"),
    ACCURACY,
)
AFTER_ROBUSTNESS = (
    Measure(5, "corruption_error", "mean corruption error, average pooling = 100"),
    Measure(5, "accuracy_lost", "accuracy lost to corruption, points", relative=True),
    Measure(6, "hessian_eigenvalue", "largest Hessian eigenvalue of the loss at the end, magnitude"),
    Measure(6, "surface_rise", "mean rise of the loss around the end, filter-normalised"),
    Measure(6, "surface_rise_relative", "that rise / loss", relative=True),
)

# Measure key -> pool -> one figure per seed, in the order of the seeds.
Figures = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Verdict:
    """A measure of one pool against average pooling, mean and standard deviation over seeds.

    ``gain`` and ``margin`` are those of the rule; spread and margin are NaN for a single seed.
    ``baseline_figures``, ``figures`` and ``gains`` have one entry for each seed.
    """

    measure: Measure
    pool: str
    seeds: int
    baseline_mean: float
    baseline_spread: float
    mean: float
    spread: float
    gain: float
    margin: float
    outcome: str
    baseline_figures: Sequence[float]
    figures: Sequence[float]
    gains: Sequence[float]


def verdict(measure: Measure, pool: str, baseline: Sequence[float], figures: Sequence[float]) -> Verdict:
    """Apply the rule to figures of the same seeds in the same order.

    Raises:
        ValueError: none, or not as many of one as of the other.
    """
    if not figures or len(figures) != len(baseline):
        raise ValueError(
            f"a verdict needs as many figures as average pooling has, got {len(figures)} and {len(baseline)}"
        )
    sign = 1 if measure.higher_is_better else -1
    gains = [sign * (ours - theirs) for ours, theirs in zip(figures, baseline, strict=True)]
    gain, margin = _mean(gains), student(len(gains) - 1) * spread(gains) / sqrt(len(gains))
    return Verdict(
        measure=measure,
        pool=pool,
        seeds=len(figures),
        baseline_mean=_mean(baseline),
        baseline_spread=spread(baseline),
        mean=_mean(figures),
        spread=spread(figures),
        gain=gain,
        margin=margin,
        outcome=_outcome(gain, margin, len(gains)),
        baseline_figures=baseline,
        figures=figures,
        gains=gains,
    )


def verdicts(figures: Figures, corruptions: Sequence[str]) -> list[Verdict]:
    """Return a verdict for every measure that there are figures of, and every pool but average pooling."""
    return [
        verdict(measure, pool, figures[measure.key][BASELINE], figures[measure.key][pool])
        for measure in measures(corruptions)
        if measure.key in figures
        for pool in figures[measure.key]
        if pool != BASELINE
    ]


def of_claim(claim: int, pool: str, every: Sequence[Verdict]) -> str:
    """Return the verdict on a claim for one pool, from those of its measures that are not relative."""
    outcomes = {v.outcome for v in every if v.measure.claim == claim and v.pool == pool and not v.measure.relative}
    if not outcomes:
        return NOT_MEASURED
    if outcomes == {SUPPORTED}:
        return SUPPORTED
    return NOT_SUPPORTED if NOT_SUPPORTED in outcomes else UNDECIDED


def student(degrees: int, quantile: float = 0.975) -> float:
    """Return a quantile of Student's distribution; infinity for no degree of freedom."""
    # Not at the top: the options of the command are shown where the demo extra is not installed, too.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, quantile)) if degrees > 0 else inf


def spread(figures: Sequence[float]) -> float:
    """Return the sample standard deviation; NaN for a single figure, or where one is not finite."""
    return stdev(figures) if len(figures) > 1 and all(map(isfinite, figures)) else float("nan")


def _mean(figures: Sequence[float]) -> float:
    # Not fmean, which raises where infinities of both signs meet.
    return sum(figures) / len(figures)


def _outcome(gain: float, margin: float, seeds: int) -> str:
    if seeds == 1 or isnan(gain):
        return UNDECIDED
    if gain <= 0:
        return NOT_SUPPORTED
    return SUPPORTED if gain > margin and seeds >= SEEDS_TO_SUPPORT else UNDECIDED
