"""The learning rate of each pooling of each network, by validation images."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from gcp_kernels.nn.poolings import BASELINE

from .runs import CHOOSE, LONGER, MEASURE, Job, Run
from .settings import Settings

# No seed that is measured is among those that choose.
FIRST_CHOOSING_SEED = 1000
Rates = Mapping[tuple[str, str], float]


def choosing_jobs(settings: Settings) -> list[Job]:
    """List every pooling of every network with every rate, from every choosing seed."""
    return [
        Job(CHOOSE, network, pool, FIRST_CHOOSING_SEED + number, rate)
        for network in settings.networks
        for pool in settings.pools
        for rate in settings.rates
        for number in range(settings.choosing_seeds)
    ]


def measuring_jobs(settings: Settings, rates: Rates) -> list[Job]:
    """List what is measured with the chosen rates, and average pooling for more epochs."""
    return [
        Job(kind, network, pool, seed, rates[network, pool])
        for network in settings.networks
        for kind, pool in (*((MEASURE, pool) for pool in settings.pools), (LONGER, BASELINE))
        for seed in range(settings.seeds)
    ]


def validation_accuracy(runs: Iterable[Run]) -> dict[tuple[str, str, float], tuple[float, float]]:
    """Compute mean accuracy in per cent and mean loss over the choosing seeds, by network, pool and rate."""
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        if run.job.kind == CHOOSE:
            groups.setdefault((run.network, run.pool, run.job.rate), []).append(run)
    return {
        key: (fmean(run.accuracy for run in group), fmean(run.loss for run in group)) for key, group in groups.items()
    }


def chosen_rates(runs: Sequence[Run]) -> dict[tuple[str, str], float]:
    """Choose by network and pool the rate of the highest mean validation accuracy, of equals that of the lower loss."""
    best: dict[tuple[str, str], tuple[float, float, float]] = {}
    for (network, pool, rate), (accuracy, loss) in validation_accuracy(runs).items():
        candidate = (accuracy, -loss, rate)
        best[network, pool] = max(best.get((network, pool), candidate), candidate)
    return {key: rate for key, (_, _, rate) in best.items()}
