"""The learning rate of each pooling of each network, by validation images."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from gcp_kernels.nn.poolings import BASELINE

from .runs import CHOOSE, LONGER, MEASURE, Job, Run
from .settings import Settings

# No seed that is measured is among those that choose.
FIRST_CHOOSING_SEED = 1000
# By network and pool.
Rates = Mapping[tuple[str, str], float]
Grids = Mapping[tuple[str, str], Sequence[float]]


def first_grids(settings: Settings) -> Grids:
    """Return the same rates for every pooling of every network."""
    return {(network, pool): settings.rates for network in settings.networks for pool in settings.pools}


def extended_grids(settings: Settings, grids: Grids, runs: Sequence[Run]) -> Grids:
    """Add half of the lowest or twice the highest rate where that is the best; at most ``settings.extensions`` times.

    A grid of one rate, from which nothing is chosen, stays.
    """
    rates = chosen_rates(runs)
    first, most = len(settings.rates), len(settings.rates) + settings.extensions
    return {key: extended(grid, rates.get(key), first, most, factor=2) for key, grid in grids.items()}


def extended(
    grid: Sequence[float], best: float | None, first: int, most: int, *, factor: float, digits: int = 6
) -> Sequence[float]:
    """Add a rate beyond the end of a grid where that is the best; a grid that began with one rate stays.

    Args:
        grid: what has been tried.
        best: of it; ``None`` where every training diverged.
        first: how many rates it began with.
        most: how many it may have.
        factor: from the end to what is added.
        digits: of what is added.
    """
    if first == 1 or len(grid) == most or best not in (min(grid), max(grid)):
        return grid
    if best == min(grid):
        return (float(f"{best / factor:.{digits}g}"), *grid)
    return (*grid, float(f"{best * factor:.{digits}g}"))


def choosing_jobs(settings: Settings, grids: Grids) -> list[Job]:
    """List every pooling of every network with every rate of its grid, from every choosing seed."""
    first = max(FIRST_CHOOSING_SEED, settings.seeds)
    return [
        Job(CHOOSE, network, pool, seed, rate)
        for (network, pool), grid in grids.items()
        for rate in grid
        for seed in range(first, first + settings.choosing_seeds)
    ]


def measuring_jobs(settings: Settings, rates: Rates) -> list[Job]:
    """List what is measured with the chosen rates, and average pooling for more epochs, if it is among the pools."""
    longer = [(LONGER, BASELINE)] if BASELINE in settings.pools else []
    return [
        Job(kind, network, pool, seed, rates[network, pool])
        for network in settings.networks
        for kind, pool in (*((MEASURE, pool) for pool in settings.pools), *longer)
        for seed in range(settings.seeds)
    ]


def validation_accuracy(runs: Iterable[Run]) -> dict[tuple[str, str, float], tuple[float, float]]:
    """Compute mean accuracy in per cent and mean loss over the choosing seeds, by network, pool and rate.

    Without rates with which a training diverged, be it one that chooses or one that is measured.
    """
    diverged = {(run.network, run.pool, run.job.rate) for run in runs if run.diverged}
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        key = (run.network, run.pool, run.job.rate)
        if run.job.kind == CHOOSE and key not in diverged:
            groups.setdefault(key, []).append(run)
    return {
        key: (fmean(run.accuracy for run in group), fmean(run.loss for run in group)) for key, group in groups.items()
    }


def chosen_rates(runs: Sequence[Run]) -> dict[tuple[str, str], float]:
    """Choose by network and pool the rate of the highest mean validation accuracy, of equals that of the lower loss.

    A rate with which a training diverged is none; where all did, the entry is missing.
    """
    best: dict[tuple[str, str], tuple[float, float, float]] = {}
    for (network, pool, rate), (accuracy, loss) in validation_accuracy(runs).items():
        candidate = (accuracy, -loss, rate)
        best[network, pool] = max(best.get((network, pool), candidate), candidate)
    return {key: rate for key, (_, _, rate) in best.items()}
