"""Measure on handwritten digits what the papers say that covariance pooling does to optimisation.

Trains average pooling, GCP and DropCov from several seeds; records the loss landscape along the gradient, how
predictive gradients are, convergence, accuracy under corruptions and the flatness at the end; and writes tables, plots
and a report that says of each claim whether this run supports it.
Needs the extra "demo": pip install --no-build-isolation --editable ".[demo]" in a checkout of the repository.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from gcp_kernels import __version__
from gcp_kernels.commands.argument_types import device_argument, folder_problem, integer_from, number_from
from gcp_kernels.extras import how_to_install

from ..reproduction.claims import BASELINE, CLAIMS
from ..reproduction.experiment import Settings
from ..reproduction.report import CHOSEN_ON_TEST_IMAGES, plural, summary
from ..reproduction.run import run_all, write_folder
from ..training import POOLS, SCHEDULES, NonFiniteLossError, load_digits_split
from .demo_extra import device_name, missing_packages

DEFAULT = Settings()
SMALL_MEANS_NOTHING = "with --small the training is too short and too little is measured: the verdicts mean nothing"
# Shows in seconds that everything works.
SMALL = Settings(
    seeds=2, epochs=2, batch_size=60, landscape_every=4, landscape_steps=3, test_images=100, flatness_images=30,
    hessian_iterations=3, surface_directions=1,
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; a value that is not allowed ends the program with exit code 2 and says what is."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--output", type=Path, default=Path("gcp_reproduction"), help="a new or empty folder (./gcp_reproduction)")
    add(
        "--small", action="store_true", help="seconds instead of minutes, to see that it works; other flags still count"
    )
    add("--pools", nargs="+", choices=POOLS, help=f"beside avg, which always runs ({' '.join(DEFAULT.pools[1:])})")
    add("--seeds", type=integer_from(1), help=f"how many, from 0 ({DEFAULT.seeds})")
    add("--epochs", type=integer_from(1), help=f"passes over the training set ({DEFAULT.epochs})")
    add("--schedule", choices=SCHEDULES, help=f"of the learning rate, stretched over the epochs ({DEFAULT.schedule})")
    add("--batch-size", type=integer_from(1), help=f"images per optimiser step ({DEFAULT.batch_size})")
    add(
        "--landscape-every",
        type=integer_from(1),
        help=f"training steps from one walk along the gradient to the next ({DEFAULT.landscape_every})",
    )
    add("--landscape-steps", type=integer_from(2), help=f"points of a walk ({DEFAULT.landscape_steps})")
    add(
        "--landscape-range",
        type=number_from(0, above=True),
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="first and last step size d of a walk y + d g ({:g} {:g})".format(*DEFAULT.landscape_range),
    )
    add("--device", type=device_argument, help="cpu, cuda or cuda:N (cpu)")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 when done, 1 for a missing package or a training that diverged, 2 for poolings, an output or a range that
        cannot be used, 130 when interrupted.
    """
    settings = settings_of(args)
    if settings.pools == (BASELINE,):
        return fail(f"--pools: {BASELINE} always runs; name another to compare with it", 2)
    if settings.landscape_range[0] >= settings.landscape_range[1]:
        low, high = settings.landscape_range
        return fail(f"--landscape-range: LOW must be below HIGH, got {low:g} {high:g}", 2)
    if problem := folder_problem(args.output):
        return fail(f"--output {args.output}: {problem}", 2)
    if missing := missing_packages(plotting=True):
        return fail(f"{', '.join(missing)} missing; reproduce needs: {how_to_install('demo')}", 1)
    missing_folders = [folder for folder in (args.output, *args.output.parents) if not folder.exists()]
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return fail(f"--output {args.output}: it cannot be made: {error.strerror}", 2)
    try:
        return run_and_write(args, settings)
    except KeyboardInterrupt:
        return fail("interrupted; runs that are not yet written are lost, and it cannot resume", 130)
    finally:
        remove_empty(missing_folders)


def run_and_write(args: argparse.Namespace, settings: Settings) -> int:
    """Do everything after the checks, into a folder that is there; exit codes as of :func:`run`."""
    started = time.perf_counter()
    print(f"gcp_kernels {__version__}, torch {torch.__version__}, {device_name(settings.device)}")
    digits = load_digits_split(settings.device)
    if settings.test_images is not None:
        digits = replace(
            digits,
            test_images=digits.test_images[: settings.test_images],
            test_labels=digits.test_labels[: settings.test_images],
        )
    try:
        runs = run_all(settings, digits, print)
    except NonFiniteLossError as error:
        return fail(str(error), 1)
    seconds, busy = time.perf_counter() - started, time.process_time()
    circumstances = (
        f"{len(digits.train_labels)} training and {len(digits.test_labels)} test images, "
        f"{plural(settings.seeds, 'seed')}",
        f"`{command_line(args)}`: {seconds:.0f} s, {busy:.0f} s of processor time",
        f"gcp_kernels {__version__}, torch {torch.__version__}, {device_name(settings.device)}",
        *([f"**{SMALL_MEANS_NOTHING[0].upper()}{SMALL_MEANS_NOTHING[1:]}.**"] if args.small else []),
    )
    every = write_folder(args.output, settings, runs, circumstances)
    pools = [pool for pool in settings.pools if pool != BASELINE]
    print(f"\n{summary(list(CLAIMS), pools, every)}\n\n{CHOSEN_ON_TEST_IMAGES}")
    if args.small:
        print(f"\n{SMALL_MEANS_NOTHING}")
    print(f"\nwritten to {args.output}, with report.md, in {time.perf_counter() - started:.0f} s")
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the default settings, or the small ones, changed by the options that were given."""
    given = {
        field.name: getattr(args, field.name)
        for field in fields(Settings)
        if getattr(args, field.name, None) is not None
    }
    if "pools" in given:
        given["pools"] = tuple(dict.fromkeys((BASELINE, *given["pools"])))
    if "landscape_range" in given:
        given["landscape_range"] = tuple(given["landscape_range"])
    return replace(SMALL if args.small else DEFAULT, **given)


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those folders, innermost first, up to the first that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def command_line(args: argparse.Namespace) -> str:
    """Return the command that repeats this run, without the folder that it writes to."""
    words = ["python", "-m", "experiments", "reproduce"]
    for name, value in vars(args).items():
        if name in ("command", "output") or value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [
            f"--{name.replace('_', '-')}",
            *(f"{one:g}" if isinstance(one, float) else str(one) for one in values),
        ]
    return shlex.join(words)


def fail(message: str, code: int) -> int:
    print(f"experiments reproduce: error: {message}", file=sys.stderr)
    return code
