"""What ``reproduce`` runs instead of the six claims: other experiments, with settings of their own."""

import argparse
import sys
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..datasets.image_decoding import ImageError
from ..pretrained import experiment as pretrained
from ..pretrained import run as pretrained_run
from ..pretrained.run import NothingConvergedError
from ..reproduction.workers import load_images
from ..roots import run as roots_run
from ..roots import settings as roots
from ..running import OtherRunsError, termination_interrupts
from ..training import NonFiniteLossError
from ..transfer import run as transfer_run
from ..transfer import settings as transfer
from .output_folder import UnusableOutputError, output_folder

INTERRUPTED = "interrupted; the runs that were done are kept, and the same command goes on with the others"
TAKEN = ("output", "small", "jobs")
Say = Callable[[str], object]


class UnusableDataError(ValueError):
    """There is no such data set, or the images of a folder cannot be used; the message says why."""


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        summary: for the help.
        run: takes the arguments, a folder that exists, and what gets a line about each run that is done.
        taken: options that it takes.
    """

    summary: str
    run: Callable[[argparse.Namespace, Path, Say], object]
    taken: tuple[str, ...] = TAKEN


def run_transfer(args: argparse.Namespace, folder: Path, say: Say) -> None:
    """Run the experiment of transfer."""
    settings = transfer.SMALL if args.small else transfer.Settings()
    transfer_run.run(settings if args.jobs is None else replace(settings, jobs=args.jobs), folder, say)


def run_pretrained(args: argparse.Namespace, folder: Path, say: Say) -> None:
    """Run the experiment behind a pretrained network."""
    settings = pretrained.SMALL if args.small else pretrained.Settings()
    pretrained_run.run(settings if args.jobs is None else replace(settings, jobs=args.jobs), folder, say)


def run_roots(args: argparse.Namespace, folder: Path, say: Say) -> None:
    """Run the experiment on square roots."""
    settings = roots.defaults(args.data)
    if args.device is not None:
        settings = replace(settings, device=str(args.device))
    try:
        load_images(settings)  # which the run does not do again
    except (ValueError, FileNotFoundError, ImageError) as error:
        raise UnusableDataError(str(error)) from error
    roots_run.run(roots.small(settings) if args.small else settings, folder, say, jobs=args.jobs)


EXPERIMENTS: Mapping[str, Experiment] = {
    "transfer": Experiment(
        "instead, trunks of classifiers in torchvision's detectors, on scenes of mnist digits (one to three hours of "
        "two cores)",
        run_transfer,
    ),
    "pretrained": Experiment(
        "instead, EfficientNet-Lite0 with ImageNet weights, frozen and fine-tuned (two and a half hours of two cores)",
        run_pretrained,
    ),
    "roots": Experiment(
        "instead, square roots of 1 to 10 iterations, exact, and by optimal coefficients, on the data (an hour and "
        "more of two cores on mnist and typefaces)",
        run_roots,
        (*TAKEN, "data", "device"),
    ),
}


def chosen(args: argparse.Namespace) -> str | None:
    """Return the name of the experiment that was asked for."""
    return next((name for name in EXPERIMENTS if getattr(args, name)), None)


def run(name: str, args: argparse.Namespace, defaults: argparse.Namespace) -> int:
    """Run it.

    Args:
        name: one of ``EXPERIMENTS``.
        args: of the command.
        defaults: the same where nothing is given; options that this does not take must be as there.

    Returns:
        0 when done, 1 for a missing package or a training that diverged, 2 for an option that is not taken or an
        output that cannot be used, 130 when interrupted.
    """
    experiment = EXPERIMENTS[name]
    others = [
        f"--{option.replace('_', '-')}"
        for option, value in vars(args).items()
        if option not in (*experiment.taken, *EXPERIMENTS, "command") and value != getattr(defaults, option)
    ]
    if others:
        taken = ", ".join(f"--{option}" for option in experiment.taken)
        return fail(f"--{name} takes of the other options {taken}, got {', '.join(others)}", 2)
    try:
        with termination_interrupts(), output_folder(args.output):
            experiment.run(args, args.output, partial(print, flush=True))
    except ImportError as error:
        return fail(str(error), 1)
    except OtherRunsError as error:
        return fail(f"--output: {error}", 2)
    except (UnusableOutputError, UnusableDataError) as error:
        return fail(str(error), 2)
    except (NonFiniteLossError, NothingConvergedError) as error:
        return fail(f"{error}; the runs that were done are kept", 1)
    except BrokenProcessPool:
        return fail("a process was killed, perhaps for want of memory; give a smaller --jobs to go on", 1)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, 130)
    print(f"\nwritten to {args.output}, with report.md")
    return 0


def fail(message: str, code: int) -> int:
    """Say what is wrong, and return the exit code."""
    print(f"experiments reproduce: error: {message}", file=sys.stderr)
    return code
