"""From runs to one figure per measure, pool and seed."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isnan, nan
from statistics import fmean

from .claims import BASELINE
from .corruptions import STRENGTHS
from .flatness import RESIDUAL_ALLOWED, Flatness
from .runs import Run


def figures_of(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """Compute measure key -> pool -> one figure per seed, seeds in ascending order, from what one network measured.

    Measures of the landscape are missing where no walk was recorded. A figure is NaN where it would be divided by zero,
    and a Hessian eigenvalue too where its power iteration was still far off.

    Raises:
        ValueError: the seeds of some pool are not those of average pooling.
    """
    pools = list(dict.fromkeys(run.pool for run in runs))
    by_pool = {pool: sorted((run for run in runs if run.pool == pool), key=lambda run: run.seed) for pool in pools}
    seeds = {pool: [run.seed for run in of_pool] for pool, of_pool in by_pool.items()}
    if BASELINE not in seeds or any(other != seeds[BASELINE] for other in seeds.values()):
        raise ValueError(f"every pool needs the seeds of {BASELINE!r}, got {seeds}")
    baselines = by_pool[BASELINE]
    alone: dict[str, Callable[[Run], float]] = {
        "accuracy": lambda run: run.accuracy,
        **{f"accuracy_{name}": partial(mean_accuracy, name=name) for name in corruptions_of(runs)},
        "accuracy_lost": lambda run: run.accuracy - fmean(run.robustness.values()),
        "hessian_eigenvalue": hessian_eigenvalue,
        "surface_rise": lambda run: flat(run).rise,
        "surface_rise_relative": lambda run: quotient(flat(run).rise, flat(run).loss),
    }
    if all(run.walks for run in runs):
        alone |= LANDSCAPE
    beside: dict[str, Callable[[Run, Run], float]] = {
        "epochs_to_target": lambda run, average: epochs_to(average.accuracy, run),
        "corruption_error": corruption_error,
    }
    return {key: {pool: [figure(run) for run in by_pool[pool]] for pool in pools} for key, figure in alone.items()} | {
        key: {pool: [figure(*pair) for pair in zip(by_pool[pool], baselines, strict=True)] for pool in pools}
        for key, figure in beside.items()
    }


def corruptions_of(runs: Sequence[Run]) -> list[str]:
    """List the corruptions that runs were measured under, in their order."""
    return list(dict.fromkeys(name for run in runs for name, _ in run.robustness))


def flat(run: Run) -> Flatness:
    """Return what every measured run has."""
    assert run.flatness is not None
    return run.flatness


def quotient(part: float, whole: float) -> float:
    """Return ``part / whole``; NaN, on which no verdict is given, where ``whole`` is zero."""
    return part / whole if whole else nan


def hessian_eigenvalue(run: Run) -> float:
    """Return the magnitude of the largest one; NaN where its relative residual exceeds ``RESIDUAL_ALLOWED``."""
    return abs(flat(run).eigenvalue) if flat(run).relative_residual <= RESIDUAL_ALLOWED else nan


def worst_residual(runs: Sequence[Run]) -> float:
    """Return the largest relative residual of the runs' Hessian eigenvalues; NaN if one is."""
    residuals = [flat(run).relative_residual for run in runs]
    return nan if any(map(isnan, residuals)) else max(residuals)


def loss_range(run: Run) -> float:
    """Return max - min of the loss over the walk, mean over the recorded steps: the papers' band, per step."""
    return fmean(row["loss_max"] - row["loss_min"] for row in run.walks)


def gradient_distance(run: Run) -> float:
    """Return how far the gradient gets from that at the start of the walk, mean over the recorded steps."""
    return fmean(row["distance_max"] for row in run.walks)


# A quotient of means, not a mean of quotients: late in training, with losses near zero, single quotients are arbitrary.
LANDSCAPE: dict[str, Callable[[Run], float]] = {
    "loss_range": loss_range,
    "loss_range_relative": lambda run: quotient(loss_range(run), fmean(row["loss"] for row in run.walks)),
    "beta": lambda run: fmean(row["beta"] for row in run.walks),
    "gradient_distance": gradient_distance,
    "gradient_distance_relative": lambda run: quotient(
        gradient_distance(run), fmean(row["gradient_norm"] for row in run.walks)
    ),
}


def mean_accuracy(run: Run, name: str) -> float:
    """Return the test accuracy under one corruption, mean of its five strengths, in per cent."""
    return fmean(run.robustness[name, strength] for strength in STRENGTHS)


def accuracy_at(run: Run, strength: int) -> float:
    """Return the test accuracy at one strength, mean of the corruptions, in per cent."""
    return fmean(run.robustness[name, strength] for name in corruptions_of([run]))


def epochs_to(target: float, run: Run) -> float:
    """Return the first epoch, from 1, whose test accuracy is at least ``target``; infinity if there is none."""
    return next((float(number) for number, epoch in enumerate(run.epochs, 1) if epoch.accuracy >= target), inf)


def corruption_error(run: Run, average: Run) -> float:
    """Return the mean corruption error of Hendrycks & Dietterich, relative to average pooling of the same seed.

    For each corruption the error summed over strengths, in per cent of average pooling's; mean over corruptions. NaN
    where average pooling makes no error under one of them.
    """
    return 100 * fmean(
        quotient(100 - mean_accuracy(run, name), 100 - mean_accuracy(average, name)) for name in corruptions_of([run])
    )
