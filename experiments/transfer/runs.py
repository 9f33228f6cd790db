"""All runs, side by side, and the file that keeps those that are done."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gcp_kernels import __version__

from ..datasets import ImageData
from ..reproduction.origins import how_made, origin
from ..running import Log, finished
from .choice import classifier_rates, detector_rates
from .experiment import CLASSIFIER, MEASURED, Choice, Precision, Run, choose_classifier, choose_detectors
from .experiment import train_and_measure as measure
from .settings import Settings

Tasks = Mapping[str, Callable[[], Choice | Run]]


def run_all(
    settings: Settings, versions: Mapping[str, str], path: Path, say: Callable[[str], object]
) -> tuple[list[Choice], list[Run], list[str]]:
    """Choose rates, and make every run; what the file at ``path`` has is not made again.

    Where a training of a run diverges, the rate that it had is none, and all runs of that trunk are made with the next
    best; the file keeps what diverged. When a run fails, no other is begun, and those that are done are kept.

    Args:
        settings: what is run.
        versions: what else the runs depend on, :func:`versions_of`.
        path: of the file.
        say: gets a line about each run that is done.

    Returns:
        The choices, the classifiers' first, with what diverged marked; the runs by seed and trunk, in the order of the
        settings; and lines on who made them, and when.

    Raises:
        OtherRunsError: the file has runs of other settings or versions, or is no such file; a ``ValueError``.
        NonFiniteLossError: with every rate of a trunk a training diverged; the message says of which.
        ImportError: a package is missing; the message says how to install it.
        OSError: the file cannot be read or written.
    """
    log = Log(path, {**as_kept(settings), **versions}, origin())
    choices: dict[str, Choice] = {}

    def make(tasks: Tasks) -> None:
        missing = {key: task for key, task in tasks.items() if key not in log}
        for key, done, seconds in finished(missing, settings.jobs):
            log.add(key, asdict(done), seconds)
            say(described(done))

    def choose(tasks: Tasks) -> list[Choice]:
        make(tasks)
        for key in tasks:
            choices.setdefault(key, Choice(**log[key]))
        return list(choices.values())

    while True:
        of_classifiers = classifier_rates(
            choose(
                {
                    key_of(pool, rate): partial(choose_classifier, pool, rate, settings)
                    for pool in settings.pools
                    for rate in settings.classifier_rates
                }
            )
        )
        before = {trunk: of_classifiers.get(trunk) for trunk in settings.trunks}
        of_detectors = detector_rates(
            choose(
                {
                    key_of(trunk, before[trunk], rate): partial(choose_detectors, trunk, before[trunk], rate, settings)
                    for trunk in settings.trunks
                    for rate in settings.detector_rates
                }
            )
        )
        measuring: Tasks = {
            key_of(trunk, *rates, seed): partial(measure, trunk, seed, *rates, settings)
            for seed in range(settings.seeds)
            for trunk in settings.trunks
            for rates in [(before[trunk], of_detectors[trunk])]
        }
        make(measuring)
        runs = [run_of(log[key]) for key in measuring]
        if not any(run.diverged for run in runs):
            return list(choices.values()), runs, how_made(log)
        for run in runs:
            if run.diverged:
                with_it = None if run.diverged == CLASSIFIER else run.detector_rate
                key = key_of(run.trunk, run.classifier_rate, with_it)
                choices[key] = replace(choices[key], diverged=MEASURED)


def key_of(trunk: str, classifier: float | None, detectors: float | None = None, seed: int | None = None) -> str:
    """Name what is run: a choice of a classifier's rate, of the detectors', or with a seed a run that is measured."""
    rates = {"classifier": classifier, "detectors": detectors}
    with_them = "".join(f", {name} {rate:g}" for name, rate in rates.items() if rate is not None)
    return f"choose {trunk}{with_them}" if seed is None else f"measure {trunk}{with_them}, seed {seed}"


def run_of(kept: Mapping[str, Any]) -> Run:
    """Return a run from what the file has of it."""
    return Run(**{**kept, "precisions": [Precision(**one) for one in kept["precisions"]]})


def described(done: Choice | Run) -> str:
    """Write one line about what is done: what chooses, and of a run every AP at the end."""
    if isinstance(done, Choice):
        what = "of validation digits" if done.detector_rate is None else "AP of masks on validation scenes"
        outcome = "diverged" if done.validation is None else f"{done.validation:.2f} % {what}"
        return f"{key_of(done.trunk, done.classifier_rate, done.detector_rate)}: {outcome}"
    key = key_of(done.trunk, done.classifier_rate, done.detector_rate, done.seed)
    if done.diverged:
        return f"{key}: diverged ({done.diverged})"
    last = max(one.epoch for one in done.precisions)
    figures = [f"{one.detector} AP of {one.compared} {one.AP:.1f}" for one in done.precisions if one.epoch == last]
    accuracy = [] if done.accuracy is None else [f"accuracy of the classifier {done.accuracy:.2f} %"]
    return f"{key}: {', '.join([*accuracy, *figures])}"


def as_kept(settings: Settings) -> dict[str, Any]:
    """Return what the runs depend on: not how many go on at the same time."""
    return {name: value for name, value in asdict(settings).items() if name != "jobs"}


def versions_of(data: ImageData) -> dict[str, str]:
    """Return what the runs depend on beside the settings: versions of packages, and the fingerprint of the images."""
    return {
        "gcp_kernels": __version__,
        "torch": torch.__version__,
        **{package: version(package) for package in ("torchvision", "pycocotools")},
        "images": data.fingerprint(),
    }
