"""All runs, side by side, and the file that keeps those that are done."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..reproduction.origins import how_made, origin
from ..running import Log, finished
from ..training import NonFiniteLossError
from .experiment import Choice, Precision, Run, choose, train_and_measure
from .settings import Settings

FILE = "runs.jsonl"
CHOICE = "choice"


def run_all(settings: Settings, path: Path, say: Callable[[str], object]) -> tuple[list[Choice], list[Run], list[str]]:
    """Choose the classifiers' rates, and make every run; what the file at ``path`` has is not made again.

    ``say`` gets a line about each that is done. When one fails, no other is begun, and those that are done are kept.

    Returns:
        The choices by pooling and rate, and the runs by seed and trunk, both in the order of the settings; and lines
        on who made them, and when.

    Raises:
        OtherRunsError: the file has runs of other settings, or is no such file; a ``ValueError``.
        NonFiniteLossError: a training diverged, that of a classifier with every rate; the message says which.
        ImportError: a package is missing; the message says how to install it.
        OSError: the file cannot be read or written.
    """
    log = Log(path, as_kept(settings), origin())

    def make(tasks: dict[str, Callable[[], Choice | Run]]) -> None:
        missing = {key: task for key, task in tasks.items() if key not in log}
        for key, done, seconds in finished(missing, settings.jobs):
            log.add(key, asdict(done), seconds)
            say(described(done))

    choosing: dict[str, Callable[[], Choice | Run]] = {
        f"{CHOICE} {pool} {rate:g}": partial(choose, pool, rate, settings)
        for pool in settings.pools
        for rate in settings.classifier_rates
    }
    make(choosing)
    choices = [Choice(**log[key]) for key in choosing]
    rates = chosen_rates(choices)
    running: dict[str, Callable[[], Choice | Run]] = {
        f"{trunk} {seed}": partial(train_and_measure, trunk, seed, rates.get(trunk), settings)
        for seed in range(settings.seeds)
        for trunk in settings.trunks
    }
    make(running)
    return choices, [run_of(log[key]) for key in running], how_made(log)


def run_of(kept: dict[str, Any]) -> Run:
    """Return a run from what the file has of it."""
    return Run(**{**kept, "precisions": [Precision(**one) for one in kept["precisions"]]})


def chosen_rates(choices: Sequence[Choice]) -> dict[str, float]:
    """Return the rate with the highest accuracy for each pooling, the lowest one of several.

    Raises:
        NonFiniteLossError: with every rate of a pooling the training diverged.
    """
    rates = {}
    for pool in dict.fromkeys(choice.pool for choice in choices):
        known = [(one.accuracy, -one.rate) for one in choices if one.pool == pool and one.accuracy is not None]
        if not known:
            raise NonFiniteLossError(f"{pool}: the training of the classifier diverged with every rate")
        rates[pool] = -max(known)[1]
    return rates


def described(done: Choice | Run) -> str:
    """Write one line about what is done: the classifier's accuracy, and of a run every AP at the end."""
    if isinstance(done, Choice):
        outcome = "diverged" if done.accuracy is None else f"{done.accuracy:.2f} % of validation digits"
        return f"{done.pool}, rate {done.rate:g}: {outcome}"
    last = max(one.epoch for one in done.precisions)
    figures = [f"{one.detector} AP of {one.compared} {one.AP:.1f}" for one in done.precisions if one.epoch == last]
    accuracy = [] if done.accuracy is None else [f"accuracy of the classifier {done.accuracy:.2f} %"]
    return f"seed {done.seed}, {done.trunk}: {', '.join([*accuracy, *figures])}"


def as_kept(settings: Settings) -> dict[str, Any]:
    """Return what the runs depend on: not how many go on at the same time."""
    return {name: value for name, value in asdict(settings).items() if name != "jobs"}
