"""One training run that can be killed at any moment, and resumed to the result that it would have had."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gcp_kernels import __version__
from gcp_kernels.analysis import LandscapeRecorder, split
from gcp_kernels.checkpoint_file import CheckpointError

from .batches import steps_per_epoch
from .configuration import TrainingConfig
from .damaged_images import Report
from .dataset import difference
from .distributed import Processes
from .loop import AfterStep, train_epochs
from .mixed_precision import MixedPrecision
from .run_folder import RunFolder, RunFolderError
from .saved_state import check_saved_state, misfits
from .schedules import learning_rate_factor, scheduler
from .tasks import load_task

# Of the checkpoint; a file of another one is refused. The first had no names of classes: nobody can tell whether the
# data still have the same ones.
FORMAT = 2


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Have cuDNN choose the same algorithms again; afterwards torch's random states are what they were before."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        # TF32 would be switched on by the default of flags.
        stack.enter_context(
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        )
        yield


class TrainingRun:
    """Network, optimiser and all else that decides how training goes on; inside of :func:`reproducible`.

    Args:
        config: the options.
        device: of this process.
        workers: processes that read images for this one; they do not change the result.
        processes: this one among those that train together, which have joined.
        report: of images decoded beforehand, as for :class:`experiments.training.image_folder.FolderBatches`.

    Attributes:
        history: a row for each epoch so far, with the columns of ``log.csv``.
        classes: their names, in the order of the network's outputs.
        dataset: counts of images and classes, and fingerprints of what is listed.
        notes: lines for a person, on what else is in a folder of images.
        damaged: images that were left out of it; ``None`` without ``skip_damaged``.
        steps_in_epoch: optimiser steps.

    Raises:
        FileNotFoundError, ValueError: from a folder of images.
        ImportError: scikit-learn for the digits, or torchvision for a folder, cannot be imported.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device,
        workers: int,
        processes: Processes,
        report: Report | None = None,
    ) -> None:
        self.config, self.device, self.processes = config, device, processes
        task = load_task(config, device, workers, processes, report)
        self.network, self.batches = task.network, task.batches
        self.classes, self.dataset = task.classes, task.dataset
        self.notes, self.damaged = task.notes, task.damaged
        self.steps_in_epoch = steps_per_epoch(self.batches.images_per_epoch, config.batch_size)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.schedule = scheduler(config.schedule, self.optimizer, config.epochs, self.steps_in_epoch)
        self.arithmetic = MixedPrecision(config.amp, device)
        self.recorder: LandscapeRecorder | None = None
        if config.landscape_every is not None:
            stem, rest = split(self.network, after=task.first_convolution)
            self.recorder = LandscapeRecorder(stem, rest, functional.cross_entropy, every=config.landscape_every)
        self.history: list[dict[str, Any]] = []
        # The masks of dropout come from here, and must not be the same in all processes.
        torch.manual_seed(config.seed + processes.rank)

    def description(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        versions = {"gcp_kernels": __version__, "torch": torch.__version__}
        return {**self._identity(), "versions": versions}

    def resume(self, folder: RunFolder) -> None:
        """Go on from the folder's checkpoint, or begin if there is none yet; write the tables that it may lack.

        Without a complete epoch nothing depends on what the data were: the folder then describes them as they are now.

        Raises:
            RunFolderError: the checkpoint is damaged, gone, of another version or run, or the data have changed.
            NotWrittenError: the folder cannot be written.
        """
        state = folder.load()
        if state is not None:
            self._require_same(state, folder)
            try:
                self._load_state(state)
            except (TypeError, ValueError, RuntimeError) as error:
                raise RunFolderError(f"{folder.checkpoint} is not of this run: {error}") from error
        elif folder.has_epochs():
            raise RunFolderError(f"{folder.checkpoint} is gone, and {folder.log} has epochs: restore it to go on")
        elif self.processes.first:
            folder.create(self.description())
        if self.processes.first:
            folder.write_tables(self.history, self._landscape_rows())

    def _require_same(self, state: Mapping[str, Any], folder: RunFolder) -> None:
        """Raise :class:`RunFolderError` unless the checkpoint is of this run, as the folder and the data are now."""
        found = state.get("format")
        if type(found) is not int or found != FORMAT:
            raise RunFolderError(
                f"{folder.checkpoint} has format {found!r}; this is format {FORMAT}: train again in "
                "another folder, or go on with the version of gcp_kernels that wrote it"
            )
        saved, now = folder.read_config(), self._identity()
        for part in now:
            # Forms first: a tensor where a name belongs cannot be compared with it.
            if any(misfits(state.get(part), saved.get(part), part)) or state.get(part) != saved.get(part):
                raise RunFolderError(f"{folder.checkpoint} is of a run with other {part} than {folder.config}")
        try:
            changes = difference(state, now)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{folder.checkpoint} does not say which classes and images it is of") from error
        if changes:
            raise RunFolderError(f"the data have changed since the run began: {changes}")

    def train(self, folder: RunFolder, after_step: AfterStep) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding the row of each epoch when it is safe in the folder.

        Raises:
            NonFiniteLossError: the folder then has the last complete epoch.
            NotWrittenError: the folder cannot be written.
        """
        forward: Callable[[Tensor], Tensor] = self.processes.wrap(self.network, self.device)
        if self.config.compile:
            forward = torch.compile(forward)

        def record_and_report(images: Tensor, labels: Tensor) -> None:
            # The other processes wait at their next step: a second recording would tell nobody anything.
            if self.recorder is not None and self.processes.first:
                self.recorder.step(images, labels)
            after_step(images, labels)

        first_epoch = len(self.history) + 1
        epochs = train_epochs(
            self.network,
            self.batches,
            optimizer=self.optimizer,
            schedule=self.schedule,
            epochs=self.config.epochs,
            after_step=record_and_report,
            first_epoch=first_epoch,
            forward=forward,
            arithmetic=self.arithmetic,
            processes=self.processes,
        )
        for number, epoch in enumerate(epochs, start=first_epoch):
            row = {
                "epoch": number,
                "learning_rate": self.config.lr
                * learning_rate_factor(self.config.schedule, number, self.config.epochs),
                "train_loss": epoch.loss,
                "test_accuracy": epoch.accuracy,
                "seconds": round(epoch.seconds, 3),
            }
            self.history.append(row)
            state = self._state()
            if self.processes.first:
                folder.save(state, self._landscape_rows())
            yield row

    def _landscape_rows(self) -> list[dict[str, float]] | None:
        return None if self.recorder is None else self.recorder.rows()

    def _identity(self) -> dict[str, Any]:
        """Return what must stay the same from the first epoch to the last; the folder and the checkpoint hold it."""
        return {"options": self.config.to_save(), "classes": self.classes, "dataset": self.dataset}

    def _state(self) -> dict[str, Any]:
        """Return all that decides how training goes on. Called in every process, for the random states of all."""
        return {
            "format": FORMAT,
            **self._identity(),
            "history": self.history,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.arithmetic.scaler.state_dict(),
            "random": self.processes.gather(random_state(self.device)),
            "recorder": None if self.recorder is None else self.recorder.state_dict(),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        check_saved_state(state, self._state(), list(self.network.parameters()))
        epochs = [row["epoch"] for row in state["history"]]
        if not epochs or epochs != list(range(1, len(epochs) + 1)) or len(epochs) > self.config.epochs:
            raise CheckpointError(f"history must have epochs 1, 2, ... of {self.config.epochs}, got {epochs}")
        if self.recorder is not None:
            self.recorder.load_state_dict(state["recorder"])
        self.history = state["history"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.arithmetic.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"][self.processes.rank], self.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random state on the CPU, and on the GPU of this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on from a :func:`random_state`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
