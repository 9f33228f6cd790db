"""Train a network with covariance or average pooling: on real handwritten digits, or on a folder of images.

Everything goes into one folder: options, a checkpoint after every epoch, CSV tables. A run that was killed goes on with
--resume, to the result that it would have had. For several processes: torchrun --nproc-per-node N -m experiments train.
docs/training.md in the repository says what is published and what is not. The digits need the extra "demo", folders of
images the extra "models": pip install --no-build-isolation --editable ".[demo,models]" in a checkout of the repository.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gcp_kernels import __version__
from gcp_kernels.commands.argument_types import device_argument, integer_from, number_from
from gcp_kernels.commands.ending import INTERRUPTED, NOT_READ
from gcp_kernels.extras import IMPORT_ERRORS, why_not_imported

from ..datasets.digits import BATCH_SIZE
from ..datasets.image_listing import check_folders
from ..training import POOLS, SCHEDULES, NonFiniteLossError, reading_processes
from ..training.configuration import DIGITS, TrainingConfig
from ..training.distributed import Processes, joined
from ..training.mixed_precision import AMP_DTYPES
from ..training.resnets import ARCHITECTURES
from ..training.run import TrainingRun, reproducible
from ..training.run_folder import RunFolder, RunFolderError

OUTPUT = Path("gcp_run")
WORKERS = 4
# Damaged images that are named; the table has all.
DAMAGED_SHOWN = 20
SECONDS_BETWEEN_REPORTS = 30
# Of the command line only: none of them changes the result.
NOT_OF_THE_CONFIG = ("command", "output", "resume", "workers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; one that is not given is absent, so that a resumed run has the saved one."""
    parser.description = __doc__
    parser.argument_default = argparse.SUPPRESS

    def add(name: str, text: str, **options: Any) -> None:
        parser.add_argument(name, help=text, **options)

    add("--data", "digits, or a folder with train/CLASS/* and val/CLASS/* (digits)", type=data_argument, metavar="DATA")
    add("--arch", "for a folder of images (resnet18); the digits have a small CNN", choices=ARCHITECTURES)
    add("--image-size", "pixels that the network sees, for a folder of images (224)", type=integer_from(1), metavar="N")
    add("--workers", f"processes that read a folder of images ({WORKERS})", type=integer_from(0), metavar="N")
    add("--pool", "the pooling (gcp, which is iSQRT-COV)", choices=POOLS)
    add("--schedule", "published course of the learning rate (norm)", choices=SCHEDULES)
    add("--epochs", "over how many it is stretched (as published: 100, 30, 50)", type=integer_from(1), metavar="N")
    add("--lr", "initial learning rate of SGD (0.1)", type=number_from(0, above=True), metavar="RATE")
    add("--momentum", "of SGD (0.9)", type=number_from(0, below=1), metavar="X")
    add("--weight-decay", "of SGD (1e-4)", type=number_from(0), metavar="X")
    add("--batch-size", f"images per step, over all processes (digits {BATCH_SIZE}, else 256)", type=integer_from(1),
        metavar="N")  # fmt: skip
    add("--seed", "weights, image order, augmentation, dropout (0)", type=integer_from(0), metavar="N")
    add("--device", "cpu, cuda or cuda:N (cuda if there is one)", type=device_argument)
    add("--amp", "autocast to bf16, or on a GPU to fp16 with scaled gradients", nargs="?", const="bf16",
        choices=tuple(AMP_DTYPES))  # fmt: skip
    add("--compile", "train the network as torch.compile makes it", action="store_true")
    add("--landscape-every", "record the loss landscape every N steps", type=integer_from(1), metavar="N")
    add("--skip-damaged", "leave out images that cannot be decoded: each is tried once before training",
        action="store_true")  # fmt: skip
    add("--output", f"the folder (./{OUTPUT}); new, empty, or without a complete epoch, but with --resume", type=Path,
        default=OUTPUT, metavar="DIR")  # fmt: skip
    add("--resume", "go on with the run in that folder; options not given are its own", action="store_true",
        default=False)  # fmt: skip


def data_argument(text: str) -> str:
    """Parse --data: "digits", or a folder, whose whole path is kept so that a run can be resumed from anywhere."""
    return text if text == DIGITS else str(Path(text).resolve())


def run(args: argparse.Namespace) -> int:
    """Train; see docs/training.md.

    Returns:
        0 when done, 1 where training fails or a package is missing, 2 for arguments that cannot be, ``INTERRUPTED``, or
        ``NOT_READ``.
    """
    folder = RunFolder(args.output)
    try:
        processes = Processes.from_environment()
    except ValueError as error:
        return fail(error, 2)
    try:
        config = configuration(args, folder, processes)
        device = processes.device(device_argument(config.device))
    except (ValueError, OSError, RunFolderError, argparse.ArgumentTypeError) as error:
        return fail(error, 2, processes)
    workers = 0 if config.data == DIGITS else getattr(args, "workers", WORKERS)
    problem = missing_packages(config) or reading_processes.why_not(workers)
    if problem:
        return fail(problem, 1, processes)
    try:
        with joined(processes, device), reproducible(device):
            code = train(config, device, workers, args, folder, processes)
    except BrokenPipeError:
        return fail(f"nobody reads what is printed; {how_to_go_on(folder)}", NOT_READ, processes, at_once=True)
    except (NonFiniteLossError, RunFolderError, ImportError) as error:
        return fail(error, 1, processes, at_once=True)
    except (RuntimeError, OSError) as error:
        problem = reading_processes.trouble(error) if workers else None
        if problem is not None:
            return fail(f"{problem}; {how_to_go_on(folder)}", 1, processes, at_once=True)
        if isinstance(error, OSError):
            return fail(error, 1, processes, at_once=True)
        raise
    except KeyboardInterrupt:
        return fail(f"interrupted; {how_to_go_on(folder)}", INTERRUPTED, processes, at_once=True)
    finally:
        folder.leave()
    return leave(code, processes)


def how_to_go_on(folder: RunFolder) -> str:
    if not folder.has_epochs():
        return "no epoch is complete: the same command begins again"
    return f"--output {folder.path} --resume goes on"


def configuration(args: argparse.Namespace, folder: RunFolder, processes: Processes) -> TrainingConfig:
    """Return the checked options; raise for what cannot be, before any work."""
    given = {name: value for name, value in vars(args).items() if name not in NOT_OF_THE_CONFIG}
    if "device" in given:
        given["device"] = str(given["device"])
    if args.resume:
        saved = folder.read_config()["options"]
        try:
            config = TrainingConfig.from_saved(saved, given, processes.count)
        except ValueError as error:
            if folder.has_epochs():
                raise
            raise ValueError(f"{error}; no epoch is complete: without --resume it begins again, with any") from error
    else:
        folder.require_unused()
        config = TrainingConfig.from_options(given, processes.count)
    if config.data == DIGITS and "workers" in args:
        raise ValueError(f"--workers is for folders of images; the digits are read at once, got {args.workers}")
    if config.data != DIGITS:
        check_folders(Path(config.data))
    return config


def missing_packages(config: TrainingConfig) -> str | None:
    """Say what cannot be imported, and how to install it; ``None`` if nothing is missing."""
    needed = {"scikit-learn": "sklearn.datasets"} if config.data == DIGITS else {"torchvision": "torchvision"}
    if sys.stderr.isatty():
        needed["tqdm"] = "tqdm"
    missing = []
    for distribution, module in needed.items():
        try:
            importlib.import_module(module)
        except IMPORT_ERRORS as error:
            missing.append(f"{distribution} ({error})")
    if not missing:
        return None
    return f"cannot be imported: {', '.join(missing)}; {why_not_imported('demo', 'models')}"


def train(
    config: TrainingConfig,
    device: torch.device,
    workers: int,
    args: argparse.Namespace,
    folder: RunFolder,
    processes: Processes,
) -> int:
    """Train to the end, with a line for each epoch from the first process."""
    report = None
    if config.skip_damaged and processes.first:
        print(f"decoding every image of {config.data} once, to leave out what is damaged", flush=True)
        report = now_and_then()
    try:
        training = TrainingRun(config, device, workers, processes, report)
    except (ValueError, FileNotFoundError) as error:
        return fail(error, 2, processes)
    if processes.first:
        folder.take()
        if not args.resume:  # another process may have trained in it since the options were read
            folder.require_unused()
    if args.resume:
        training.resume(folder)
    elif processes.first:
        folder.create(training.description())
    if training.damaged is not None and processes.first:
        folder.write_damaged(training.damaged)
    with progress(training) as (after_step, line):
        line(introduction(training))
        for note in what_was_left_out(training, folder):
            line(note)
        line("\nepoch   learning rate   train loss   test accuracy   seconds")
        for row in training.history:
            line(table_line(row))
        for row in training.train(folder, after_step):
            line(table_line(row))
        final = training.history[-1]["test_accuracy"]
        line(f"\n{final:.2f} % of the test images after the last epoch; all is in {folder.path}")
    return 0


def now_and_then() -> Callable[[int, int], None]:
    """Make the function that prints how many images have been decoded, at most twice a minute."""
    said = time.monotonic()

    def say(done: int, images: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_REPORTS:
            said = time.monotonic()
            print(f"{done} of {images}", flush=True)

    return say


@contextmanager
def progress(training: TrainingRun) -> Iterator[Any]:
    """Yield what to call after a step and what prints a line: in the first process only, with a bar on a terminal."""
    if not training.processes.first:
        yield (lambda images, labels: None), (lambda line: None)
    elif not sys.stderr.isatty():
        yield (lambda images, labels: None), (lambda line: print(line, flush=True))
    else:
        from tqdm import tqdm

        steps = training.steps_in_epoch
        done = steps * len(training.history)
        with tqdm(total=steps * training.config.epochs, initial=done, unit="step", leave=False) as bar:
            yield (lambda images, labels: bar.update()), tqdm.write


def introduction(training: TrainingRun) -> str:
    """Say what is trained, on what, and how, in three lines."""
    config, dataset = training.config, training.dataset
    together = f", {config.processes} processes" if config.processes > 1 else ""
    network = config.arch or "small CNN"
    how = [*([f"amp {config.amp}"] if config.amp else []), *(["compiled"] if config.compile else [])]
    if training.history:
        how.append(f"resumed after epoch {len(training.history)}")
    return (
        f"gcp_kernels {__version__}, torch {torch.__version__}, {config.device}{together}, seed {config.seed}\n"
        f"{config.data}: {dataset['training_images']} training and {dataset['test_images']} test images, "
        f"{dataset['classes']} classes; {network}, pool {config.pool}\n"
        f"schedule {config.schedule}, {config.epochs} epochs of {training.steps_in_epoch} steps, "
        f"up to {config.batch_size} images each{''.join(f', {part}' for part in how)}"
    )


def what_was_left_out(training: TrainingRun, folder: RunFolder) -> list[str]:
    """Say in a line each what of a folder of images was left out: files that are no images, folders, damaged images."""
    if not training.damaged:
        return [*training.notes]
    others = len(training.damaged) - DAMAGED_SHOWN
    return [
        *training.notes,
        f"images left out as damaged: {len(training.damaged)}, in {folder.damaged}",
        *(f"  {image}" for image in training.damaged[:DAMAGED_SHOWN]),
        *([f"  and {others} others"] if others > 0 else []),
    ]


def table_line(row: dict[str, Any]) -> str:
    return (
        f"{row['epoch']:5d}   {row['learning_rate']:13.6f}   {row['train_loss']:10.5f}   {row['test_accuracy']:11.2f} %"
        f"   {row['seconds']:7.2f}"
    )


def fail(message: object, code: int, processes: Processes | None = None, *, at_once: bool = False) -> int:
    """Print the error and return the exit code; one of several processes names itself, for it may fail alone."""
    where = f" in process {processes.rank}" if processes is not None and processes.count > 1 else ""
    print(f"experiments train: error{where}: {message}", file=sys.stderr, flush=True)
    return leave(code, processes) if at_once and processes is not None else code


def leave(code: int, processes: Processes) -> int:
    """Return the exit code; one of several processes ends here instead.

    Threads of its process group, which DistributedDataParallel keeps, may wait for others that wait for this one
    (torchrun ends those), or abort an interpreter that comes to its end.
    """
    if processes.count > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
