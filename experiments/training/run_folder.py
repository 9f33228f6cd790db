"""The folder of one training run: its options, its checkpoint and its tables, each replaced as a whole."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gcp_kernels.checkpoint_file import CheckpointError, read_checkpoint
from gcp_kernels.commands.atomic_files import PARTIAL, naming, write_atomically, write_table, write_text

from ..datasets.image_decoding import DamagedImageError
from ..running.folder_lock import lock, unlock

LOG_COLUMNS = ("epoch", "learning_rate", "train_loss", "test_accuracy", "seconds")
DAMAGED_COLUMNS = ("image", "reason")
LANDSCAPE_COLUMNS = (
    "step", "loss", "gradient_norm", "loss_min", "loss_max", "distance_min", "distance_max", "beta",
)  # fmt: skip


class RunFolderError(RuntimeError):
    """A folder is not what a run needs; the message names it and says what to do."""


class RunFolder:
    """``config.json``, ``checkpoint.pt``, ``log.csv``, ``landscape.csv`` and ``damaged.csv`` in one folder.

    Tables are written after the checkpoint, from what it holds: they never have a row that it does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.checkpoint = path / "config.json", path / "checkpoint.pt"
        self.log, self.landscape = path / "log.csv", path / "landscape.csv"
        self.damaged = path / "damaged.csv"
        self._lock: int | None = None

    def require_unused(self) -> None:
        """Raise :class:`RunFolderError` unless a run can begin there, which makes the folder if need be.

        A folder is unused too when a run has completed no epoch in it, or a killed write has left something over.
        """
        nearest = next(folder for folder in (self.path, *self.path.parents) if os.path.lexists(folder))
        if not nearest.is_dir():
            raise RunFolderError(f"{nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RunFolderError(f"{nearest} is a folder that may not be written to")
        found = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        if all(name.endswith(PARTIAL) for name in found):
            return
        if self.config.name not in found:
            raise RunFolderError(f"{self.path} is not empty; give another folder")
        if self.has_epochs():
            raise RunFolderError(f"{self.path} is not empty; go on with --resume, or give another folder")
        self.read_config()

    def has_epochs(self) -> bool:
        """Say whether an epoch was completed: there is a checkpoint, or a row of the log, which comes after it."""
        if os.path.lexists(self.checkpoint):
            return True
        return self.log.is_file() and len(self.log.read_bytes().splitlines()) > 1

    def take(self) -> None:
        """Make the folder if need be, and keep other processes from training in it until :meth:`leave`.

        Raises:
            NotWrittenError: it cannot be made.
            RunFolderError: another process trains in it.
        """
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(self.path)
        except BlockingIOError as error:
            raise RunFolderError(f"another process trains in {self.path}; give another folder") from error

    def leave(self) -> None:
        """Let others train in the folder."""
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def create(self, config: Mapping[str, Any]) -> None:
        """Write what the run is into the folder, which :meth:`take` has made. Raises :class:`NotWrittenError`.

        Tables of a run that completed no epoch there are removed: they are not of this one.
        """
        with naming(self.path):
            for table in (self.log, self.landscape, self.damaged):
                table.unlink(missing_ok=True)
        write_text(self.config, json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    def read_config(self) -> dict[str, Any]:
        """Read what :meth:`create` wrote. Raises :class:`RunFolderError` if there is none, or it is no such file."""
        if not self.config.is_file():
            advice = self._remedy() if self.has_epochs() else "start without --resume"
            raise RunFolderError(f"there is nothing to resume in {self.path}: it has no {self.config.name}; {advice}")
        try:
            config = json.loads(self.config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            advice = self._remedy() if self.has_epochs() else "empty the folder, or give another one"
            raise RunFolderError(f"{self.config} cannot be read: {error}; {advice}") from error
        if not isinstance(config, dict) or not isinstance(config.get("options"), dict):
            raise RunFolderError(
                f"{self.config} is not the configuration of a training run: it has no options; give another folder"
            )
        return config

    def _remedy(self) -> str:
        source = (
            f", from the options, classes and dataset of {self.checkpoint.name}" if self.checkpoint.is_file() else ""
        )
        return f"restore it{source}, or give another folder"

    def save(self, state: Mapping[str, Any], landscape: Sequence[Mapping[str, object]] | None) -> None:
        """Replace the checkpoint, then the tables.

        Raises:
            NotWrittenError: one cannot be written, on a full disk for example; what is there is then complete.
        """
        write_atomically(self.checkpoint, lambda file: torch.save(state, file))
        self.write_tables(state["history"], landscape)

    def write_tables(
        self, history: Sequence[Mapping[str, object]], landscape: Sequence[Mapping[str, object]] | None
    ) -> None:
        """Replace the log, and the landscape's if there is one recorded."""
        write_table(self.log, LOG_COLUMNS, history)
        if landscape is not None:
            write_table(self.landscape, LANDSCAPE_COLUMNS, landscape)

    def write_damaged(self, images: Sequence[DamagedImageError]) -> None:
        """Replace the table of the images that were left out. Raises :class:`NotWrittenError`."""
        rows = [{"image": _text(error.path), "reason": _text(error.reason)} for error in images]
        write_table(self.damaged, DAMAGED_COLUMNS, rows)

    def load(self) -> dict[str, Any] | None:
        """Load the checkpoint to the CPU, as data and never as code; ``None`` if no epoch has been completed.

        Raises:
            RunFolderError: the file is damaged, or is something else.
        """
        if not os.path.lexists(self.checkpoint):
            return None
        try:
            state = read_checkpoint(self.checkpoint, checksums_required=True)
        except (CheckpointError, OSError) as error:
            raise RunFolderError(str(error)) from error
        if not isinstance(state, dict):
            raise RunFolderError(
                f"{self.checkpoint} holds a {type(state).__name__} and not the state of a training run"
            )
        return state


def _text(name: str) -> str:
    """Write out the bytes of a name that are no UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")
