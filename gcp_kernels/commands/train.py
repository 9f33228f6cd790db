"""Train a network with covariance or average pooling: on real handwritten digits, or on a folder of images.

Everything goes into one folder: options, a checkpoint after every epoch, CSV tables. A run that was killed goes on with
--resume, to the result that it would have had. For several processes: torchrun --nproc-per-node N -m gcp_kernels train.
docs/training.md in the repository says what is published and what is not. The digits need the extra "demo", folders of
images the extra "models": pip install --no-build-isolation ".[demo,models]" in a checkout of the repository.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..extras import how_to_install
from ..training import POOLS, SCHEDULES, NonFiniteLossError
from ..training.configuration import DIGITS, TrainingConfig
from ..training.digits import BATCH_SIZE
from ..training.distributed import Processes, joined
from ..training.image_folder import check_folders
from ..training.mixed_precision import AMP_DTYPES
from ..training.resnets import ARCHITECTURES
from ..training.run import TrainingRun, reproducible
from ..training.run_folder import RunFolder, RunFolderError
from .argument_types import device_argument, integer_from, number_from

OUTPUT = Path("gcp_run")
WORKERS = 4
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
    add("--output", f"the folder (./{OUTPUT}); must be new or empty, but with --resume", type=Path, default=OUTPUT,
        metavar="DIR")  # fmt: skip
    add("--resume", "go on with the run in that folder; options not given are its own", action="store_true",
        default=False)  # fmt: skip


def data_argument(text: str) -> str:
    """An argparse type: "digits", or the whole path of a folder, wherever a resumed run is started."""
    return text if text == DIGITS else str(Path(text).resolve())


def run(args: argparse.Namespace) -> int:
    """Train; 0 when done, 1 where training fails or a package is missing, 2 for arguments that cannot be."""
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
    problem = missing_packages(config)
    if problem:
        return fail(problem, 1, processes)
    try:
        with joined(processes, device), reproducible(device):
            code = train(config, device, args, folder, processes)
    except (NonFiniteLossError, RunFolderError, OSError, ImportError) as error:
        return fail(error, 1, processes, at_once=True)
    except KeyboardInterrupt:
        return fail(f"interrupted; --output {folder.path} --resume goes on", 130, processes, at_once=True)
    return leave(code, processes)


def configuration(args: argparse.Namespace, folder: RunFolder, processes: Processes) -> TrainingConfig:
    """The checked options; raises for what cannot be, before any work."""
    given = {name: value for name, value in vars(args).items() if name not in NOT_OF_THE_CONFIG}
    if "device" in given:
        given["device"] = str(given["device"])
    if args.resume:
        config = TrainingConfig.from_saved(folder.read_config()["options"], given, processes.count)
    else:
        folder.require_unused()
        config = TrainingConfig.from_options(given, processes.count)
    if config.data == DIGITS and "workers" in args:
        raise ValueError(f"--workers is for folders of images; the digits are read at once, got {args.workers}")
    if config.data != DIGITS:
        check_folders(Path(config.data))
    return config


def missing_packages(config: TrainingConfig) -> str | None:
    """What cannot be imported, and how to install it; ``None`` if nothing is missing."""
    needed = {"scikit-learn": "sklearn.datasets"} if config.data == DIGITS else {"torchvision": "torchvision"}
    if sys.stderr.isatty():
        needed["tqdm"] = "tqdm"
    missing = []
    for distribution, module in needed.items():
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError) as error:
            # A torchvision built for another torch fails with a RuntimeError: an operator does not exist.
            missing.append(f"{distribution} ({error})")
    if not missing:
        return None
    return (
        f"cannot be imported: {', '.join(missing)}; not installed "
        f"({how_to_install('demo', 'models')}) or built for another torch than the one that is"
    )


def train(
    config: TrainingConfig,
    device: torch.device,
    args: argparse.Namespace,
    folder: RunFolder,
    processes: Processes,
) -> int:
    """Train to the end, with a line for each epoch from the first process."""
    try:
        training = TrainingRun(config, device, getattr(args, "workers", WORKERS), processes)
    except (ValueError, FileNotFoundError) as error:
        return fail(error, 2, processes)
    if args.resume:
        training.resume(folder)
    elif processes.first:
        folder.create(training.description())
    with progress(training) as (after_step, line):
        line(introduction(training))
        line("\nepoch   learning rate   train loss   test accuracy   seconds")
        for row in training.history:
            line(table_line(row))
        for row in training.train(folder, after_step):
            line(table_line(row))
        final = training.history[-1]["test_accuracy"]
        line(f"\n{final:.2f} % of the test images after the last epoch; all is in {folder.path}")
    return 0


@contextmanager
def progress(training: TrainingRun) -> Iterator[Any]:
    """What to call after a step, and what prints a line: in the first process only, with a bar on a terminal."""
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
    """What is trained, on what, and how, in three lines."""
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


def table_line(row: dict[str, Any]) -> str:
    return (
        f"{row['epoch']:5d}   {row['learning_rate']:13.6f}   {row['train_loss']:10.5f}   {row['test_accuracy']:11.2f} %"
        f"   {row['seconds']:7.2f}"
    )


def fail(message: object, code: int, processes: Processes | None = None, *, at_once: bool = False) -> int:
    """Print the error, of several processes with the name of each: one may fail alone; return the exit code."""
    where = f" in process {processes.rank}" if processes is not None and processes.count > 1 else ""
    print(f"gcp_kernels train: error{where}: {message}", file=sys.stderr, flush=True)
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
