"""Measure on small images what the papers say that covariance pooling does to optimisation.

Trains average pooling, GCP and DropCov from several seeds, each with the learning rate that validation images choose
for it; records the loss landscape along the gradient, how predictive gradients are, convergence, accuracy under
corruptions and the flatness at the end; and writes tables, plots and a report that says of each claim whether this run
supports it. Every run that is done is kept: the same command goes on where it was interrupted. With --transfer,
--pretrained or --roots another experiment is run, which takes --output, --small and --jobs, with --roots also --data
and --device.
Needs the extra "demo": pip install --no-build-isolation --editable ".[demo]" in a checkout of the repository.
"""

from __future__ import annotations

import argparse
import shlex
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gcp_kernels import __version__
from gcp_kernels.commands.argument_types import device_argument, integer_from, number_from
from gcp_kernels.extras import how_to_install

from ..datasets import DATASETS, FOLDER_IMAGE_SIZE, ImageData
from ..datasets.image_decoding import ImageError
from ..reproduction import settings as settings_of_data
from ..reproduction.claims import BASELINE
from ..reproduction.origins import how_made, machine_name, origin, versions_of
from ..reproduction.report import CHOSEN_BY_VALIDATION, summary
from ..reproduction.run import run_all, write_folder
from ..reproduction.settings import Settings
from ..reproduction.words import capital, plural
from ..reproduction.workers import load_images
from ..running import RUNS, Log, OtherRunsError, termination_interrupts
from ..training import BACKBONES, POOLS, SCHEDULES, NonFiniteLossError
from . import other_experiments
from .demo_extra import missing_packages
from .other_experiments import EXPERIMENTS, INTERRUPTED, fail
from .output_folder import UnusableOutputError, output_folder

DEFAULT = Settings()
LARGER = settings_of_data.DEFAULTS["mnist"]
CHECK_MEANS_NOTHING = "with --check the training is too short and too little is measured: the verdicts mean nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; a value that is not allowed ends the program with exit code 2 and says what is."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    names = ", ".join(DATASETS)
    add("--data", default="digits", help=f"{names}, or a folder with train/CLASS/*, val/CLASS/*, test/CLASS/* (digits)")
    add("--image-size", type=integer_from(1), help=f"of a folder of images ({FOLDER_IMAGE_SIZE})")
    add(
        "--output",
        type=Path,
        default=Path("gcp_reproduction"),
        help="a new or empty folder, or that of an interrupted run with the same options (./gcp_reproduction)",
    )
    instead = parser.add_mutually_exclusive_group()
    for name, experiment in EXPERIMENTS.items():
        instead.add_argument(f"--{name}", action="store_true", help=experiment.summary)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="one network, three seeds: minutes; other flags still count")
    size.add_argument("--check", action="store_true", help="seconds, to see that it works; other flags still count")
    add("--images", type=integer_from(1), help="of each of training, validation and test (all)")
    add("--networks", nargs="+", choices=tuple(BACKBONES), help="(cnn for digits, else all)")
    add("--pools", nargs="+", choices=POOLS, help=f"beside avg, which always runs ({' '.join(DEFAULT.pools[1:])})")
    add(
        "--rates",
        nargs="+",
        type=number_from(0, above=True),
        help="learning rates to choose from, for each pooling, and beyond where an end is the best "
        f"({' '.join(f'{rate:g}' for rate in DEFAULT.rates)})",
    )
    add(
        "--choosing-seeds",
        type=integer_from(1),
        help=f"how many choose the rate (digits {DEFAULT.choosing_seeds}, else {LARGER.choosing_seeds})",
    )
    add("--seeds", type=integer_from(1), help=f"how many are measured, from 0 ({DEFAULT.seeds})")
    add(
        "--epochs",
        type=integer_from(1),
        help=f"passes over the training set (digits {DEFAULT.epochs}, "
        f"typefaces {settings_of_data.DEFAULTS['typefaces'].epochs}, else {LARGER.epochs})",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        help=f"of the learning rate, stretched over the epochs ({DEFAULT.schedule})",
    )
    add(
        "--batch-size",
        type=integer_from(1),
        help=f"images per optimiser step (digits {DEFAULT.batch_size}, else {LARGER.batch_size})",
    )
    add(
        "--landscape-every",
        type=integer_from(1),
        help="training steps from one walk along the gradient to the next "
        f"(so many that there are about {settings_of_data.WALKS} walks)",
    )
    add("--landscape-steps", type=integer_from(2), help=f"points of a walk ({DEFAULT.landscape_steps})")
    add(
        "--landscape-range",
        type=number_from(0, above=True),
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="first and last step size d of a walk y + d g (as published: 0.1 75, MobileNetV2 0.045 1.5)",
    )
    add("--device", type=device_argument, help="cpu, cuda or cuda:N (cpu)")
    add("--jobs", type=integer_from(1), help="runs at the same time; they change no result (CPU: its cores, GPU: 1)")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 when done, 1 for a missing package, a training that diverged or a process that was killed, 2 for data,
        poolings, an output or a range that cannot be used, 130 when interrupted.
    """
    if name := other_experiments.chosen(args):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return other_experiments.run(name, args, parser.parse_args([]))
    settings = settings_of(args)
    if settings.pools == (BASELINE,):
        return fail(f"--pools: {BASELINE} always runs; name another to compare with it", 2)
    if (ends := settings.landscape_range) and ends[0] >= ends[1]:
        return fail("--landscape-range: LOW must be below HIGH, got {:g} {:g}".format(*ends), 2)
    if missing := missing_packages(plotting=True):
        return fail(f"{', '.join(missing)} missing; reproduce needs: {how_to_install('demo')}", 1)
    try:
        with termination_interrupts(), output_folder(args.output):
            return load_and_run(args, settings)
    except UnusableOutputError as error:
        return fail(str(error), 2)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, 130)


def load_and_run(args: argparse.Namespace, settings: Settings) -> int:
    """Do everything after the checks of options and output; exit codes as of :func:`run`."""
    try:
        data = load_images(settings)
    except ImportError as error:
        return fail(str(error), 1)
    except (ValueError, FileNotFoundError, ImageError) as error:
        return fail(str(error), 2)
    return run_and_write(args, settings, data)


def run_and_write(args: argparse.Namespace, settings: Settings, data: ImageData) -> int:
    """Run, and write into a folder that is there; exit codes as of :func:`run`."""
    started = time.perf_counter()
    device = torch.device(settings.device)
    machine = machine_name(device)
    processes = args.jobs or settings_of_data.processes(settings.device)
    versions = versions_of(data, device)
    try:
        log = Log(args.output / RUNS, {**asdict(settings), **versions}, origin(device, processes))
    except OtherRunsError as error:
        return fail(f"--output: {error}", 2)
    print(f"gcp_kernels {__version__}, torch {torch.__version__}, {machine}")
    kept = len(log)
    if kept:
        print(f"of an interrupted command {plural(kept, 'run')} are kept")
    try:
        runs = run_all(settings, log, processes, partial(print, flush=True))
    except NonFiniteLossError as error:
        return fail(f"{error}; the runs that were done are kept", 1)
    except BrokenProcessPool:
        return fail(
            "a process was killed, perhaps for want of memory; the runs that were done are kept, and the same command "
            "goes on with the others: give a smaller --jobs",
            1,
        )
    circumstances = (
        f"{len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images in "
        f"{len(data.classes)} classes, {plural(settings.seeds, 'seed')}",
        f"Images: {data.source}. Licence: {data.licence}. Fingerprint: {versions['images']}.",
        f"`{command_line(args)}`: {plural(len(log), 'run')}{'' if device.type == 'cuda' else ', each on one thread'}",
        *how_made(log),
        ", ".join(f"{name} {versions[name]}" for name in ("torch", "gcp_kernels", "kernels") if name in versions),
        *([f"**{capital(CHECK_MEANS_NOTHING)}.**"] if args.check else []),
    )
    found = write_folder(args.output, settings, data, runs, circumstances)
    print(f"\n{summary(settings, found.verdicts)}\n\n{CHOSEN_BY_VALIDATION}")
    if args.check:
        print(f"\n{CHECK_MEANS_NOTHING}")
    print(f"\nwritten to {args.output}, with report.md, in {time.perf_counter() - started:.0f} s")
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings of the data, all, small or those of a check, changed by the options that were given."""
    settings = settings_of_data.defaults(args.data)
    if args.small:
        settings = settings_of_data.small(settings)
    if args.check:
        settings = settings_of_data.check(settings)
    given: dict[str, Any] = {
        field.name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value
        for field in fields(Settings)
        if (value := getattr(args, field.name, None)) is not None
    }
    if "pools" in given:
        given["pools"] = tuple(dict.fromkeys((BASELINE, *given["pools"])))
    if "landscape_range" in given:
        given["landscape_range"] = tuple(args.landscape_range)
    if "device" in given:
        given["device"] = str(given["device"])
    return replace(settings, **given)


def command_line(args: argparse.Namespace) -> str:
    """Return the command that repeats this run, without what does not change its result."""
    words = ["python", "-m", "experiments", "reproduce"]
    for name, value in vars(args).items():
        if name in ("command", "output", "jobs") or value is None or value is False:
            continue
        if name == "data" and value == DEFAULT.data:
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [
            f"--{name.replace('_', '-')}",
            *(repr(one) if isinstance(one, float) else str(one) for one in values),
        ]
    return shlex.join(words)
