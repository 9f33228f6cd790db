"""All runs of the experiment, in processes of one thread each, and the folder that they are written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import isnan
from pathlib import Path
from typing import Any

import torch

from gcp_kernels import __version__
from gcp_kernels.commands.atomic_files import write_text

from ..datasets import load_dataset
from ..reproduction.choice import extended
from ..reproduction.origins import how_made, origin
from ..running import RUNS, Log, finished, timed
from .costs import ON_CHANNELS, Cost, measure_alone
from .experiment import Outcome, Settings, Trial, pretrained, run_trial
from .heads import Head
from .plots import write_plots
from .preparation import keep, kept_file, load_kept
from .report import report
from .results import About, Costs, Results, about, write_tables
from .weights import PACKAGE

# Stage, data set and pooling.
Compared = tuple[str, str, Head]


class NothingConvergedError(RuntimeError):
    """The training diverged at every learning rate of the grid; the message says for which pooling."""


def packaged_data(name: str) -> Any:
    """Load a data set by its name."""
    return load_dataset(name, torch.device("cpu"))


@dataclass(frozen=True)
class Sources:
    """Where images and network are from: functions of modules, which other processes can find."""

    data: Callable[[str], Any] = packaged_data
    network: Callable[[], Any] = pretrained


def run(settings: Settings, folder: Path, say: Callable[[str], object], sources: Sources | None = None) -> Results:
    """Run everything that the folder has not yet, and write tables, plots and ``report.md`` into it.

    Features of the frozen network, some hundred MB, lie in the folder while the experiment runs.

    Args:
        settings: what is run.
        folder: an existing one, empty or with runs of equal settings and the same torch; ``jobs`` may differ.
        say: gets a line about each run that is done.
        sources: of images and network; ``None`` for the packaged ones.

    Returns:
        What the tables and the report were written from.

    Raises:
        OtherRunsError: the folder has runs of other settings.
        NothingConvergedError: no learning rate can be chosen for a pooling.
        ImportError: a package that has the network, its weights or a data set is not installed.
    """
    sources = sources or Sources()
    # Another torch sums in another order; the others make images and network.
    same = {**asdict(settings), "gcp_kernels": __version__, **versions()}
    log = Log(folder / RUNS, {name: value for name, value in same.items() if name != "jobs"}, origin())
    if not log:  # what lies there may be of other settings
        remove_features(settings, folder)
    results = Results(settings)
    results.about = prepare(settings, folder, sources, say)
    compared = [(stage, name, head) for name, stage in results.comparisons() for head in settings.heads(stage)]
    grids: Mapping[Compared, Sequence[float]] = {}
    wider: Mapping[Compared, Sequence[float]] = {one: settings.rates(one[0]) for one in compared}
    while wider != grids:
        grids = wider
        grid = [Trial(*one, rate, 0, "validation") for one, rates in grids.items() for rate in rates]
        results.grid = outcomes(grid, settings, folder, sources, log, say)
        results.rates = {one: chosen_rate(results.grid, *one) for one in compared}
        wider = {one: grown(rates, results.rates[one], settings, one[0]) for one, rates in grids.items()}
    final = [
        Trial(stage, name, head, results.rates[stage, name, head], seed, "test")
        for stage, name, head in compared
        for seed in range(settings.seeds(stage))
    ]
    results.final = outcomes(final, settings, folder, sources, log, say)
    results.costs = costs(log, settings, results.about[settings.data[0]].feature_map, say)
    write_tables(folder, results)
    write_text(folder / "report.md", report(results, circumstances(log)))
    write_plots(folder, results)
    remove_features(settings, folder)
    return results


def remove_features(settings: Settings, folder: Path) -> None:
    """Remove the features of every data set."""
    for name in settings.data:
        kept_file(folder, name).unlink(missing_ok=True)


def prepare(settings: Settings, folder: Path, sources: Sources, say: Callable[[str], object]) -> dict[str, About]:
    """Keep the features of every data set that has none in the folder, and return what the report says of the data."""
    sizes = {"train": settings.frozen_images, "validation": settings.validation_images, "test": settings.test_images}
    tasks = {
        name: partial(keep, name, sizes, settings.frozen_size, folder, sources.data, sources.network)
        for name in settings.data
        if not kept_file(folder, name).exists()
    }
    for name, _, _ in finished(tasks, settings.jobs):
        say(f"features of {name}")
    return {name: about(load_kept(folder, name)) for name in settings.data}


def outcomes(
    trials: Sequence[Trial], settings: Settings, folder: Path, sources: Sources, log: Log, say: Callable[[str], object]
) -> dict[Trial, Outcome]:
    """Do the runs that are not in the log, and return all."""
    missing = {
        str(trial): partial(run_trial, trial, settings, folder, sources.network)
        for trial in trials
        if str(trial) not in log
    }
    for key, outcome, seconds in finished(missing, settings.jobs) if missing else ():
        log.add(key, asdict(outcome), seconds)
        say(f"{key}: {outcome.accuracy:.2f} %")
    found = {trial: log[str(trial)] for trial in trials}
    return {trial: Outcome(**{**run, "losses": tuple(run["losses"])}) for trial, run in found.items()}


def chosen_rate(grid: Mapping[Trial, Outcome], stage: str, data: str, head: Head) -> float:
    """Return the learning rate with the highest accuracy on validation, of equal ones that with the lower loss.

    Raises:
        NothingConvergedError: the training diverged at all of them.
    """
    own = {
        trial.rate: outcome
        for trial, outcome in grid.items()
        if (trial.stage, trial.data, trial.head) == (stage, data, head) and not isnan(outcome.accuracy)
    }
    if not own:
        raise NothingConvergedError(f"{head.label} on {data}, {stage}: the training diverged at every learning rate")
    return max(own, key=lambda rate: (own[rate].accuracy, -own[rate].loss))


def grown(grid: Sequence[float], best: float, settings: Settings, stage: str) -> Sequence[float]:
    """Add a rate beyond the end of a grid where that is the best, up to ``settings.extensions`` of them."""
    first = len(settings.rates(stage))
    return extended(grid, best, first, first + settings.extensions, factor=3, digits=1)


def costs(log: Log, settings: Settings, feature_map: tuple[int, int, int], say: Callable[[str], object]) -> Costs:
    """Measure each pooling of the frozen network on feature maps of its size, one after another."""
    measured = {}
    heads: tuple[Head | str, ...] = (*settings.frozen, ON_CHANNELS)
    for head in heads:
        name = head.name if isinstance(head, Head) else head
        key = f"cost of {name}"
        if key not in log:
            measure = partial(measure_alone, head, feature_map, settings.cost_images, settings.cost_repeats)
            cost, seconds = timed(measure)
            log.add(key, asdict(cost), seconds)
            say(f"{key}: {cost.milliseconds:.3g} ms an image")
        measured[name] = Cost(**log[key])
    return measured


def circumstances(log: Log) -> list[str]:
    """Return what the report says of who made the runs, and of versions."""
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return [*how_made(log), f"gcp_kernels {__version__}, {packages}, one thread for each run"]


def versions() -> dict[str, str]:
    """Return the versions of what the runs depend on and is installed."""
    found = {}
    for package in ("torch", "timm", PACKAGE, "matplotlib", "pillow", "mlxtend", "scikit-learn"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
