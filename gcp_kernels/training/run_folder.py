"""The folder of one training run: its options, its checkpoint and its tables, each replaced as a whole."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..checkpoint_file import CheckpointError, read_checkpoint
from .atomic_files import PARTIAL, write_atomically, write_table, write_text

LOG_COLUMNS = ("epoch", "learning_rate", "train_loss", "test_accuracy", "seconds")
LANDSCAPE_COLUMNS = (
    "step", "loss", "gradient_norm", "loss_min", "loss_max", "distance_min", "distance_max", "beta",
)  # fmt: skip


class RunFolderError(RuntimeError):
    """A folder is not what a run needs; the message names it and says what to do."""


class RunFolder:
    """``config.json``, ``checkpoint.pt``, ``log.csv`` and ``landscape.csv`` in one folder.

    Tables are written after the checkpoint, from what it holds: they never have a row that it does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.checkpoint = path / "config.json", path / "checkpoint.pt"
        self.log, self.landscape = path / "log.csv", path / "landscape.csv"

    def require_unused(self) -> None:
        """Raise :class:`RunFolderError` if there is something in it; what a killed write left over is nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is not a folder")
        found = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        if any(not name.endswith(PARTIAL) for name in found):
            advice = (
                "go on with --resume, or give another folder" if self.config.name in found else "give another folder"
            )
            raise RunFolderError(f"{self.path} is not empty; {advice}")

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder, with the options of the run in it. Raises :class:`RunFolderError`."""
        with _naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config, json.dumps(config, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """What :meth:`create` wrote. Raises :class:`RunFolderError` if there is none, or it is no such file."""
        if not self.config.is_file():
            raise RunFolderError(f"there is nothing to resume in {self.path}: it has no {self.config.name}")
        try:
            config = json.loads(self.config.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{self.config} cannot be read: {error}") from error
        if not isinstance(config, dict) or not isinstance(config.get("options"), dict):
            raise RunFolderError(f"{self.config} is not the configuration of a training run: it has no options")
        return config

    def save(self, state: Mapping[str, Any], landscape: Sequence[Mapping[str, object]] | None) -> None:
        """Replace the checkpoint, then the tables.

        Raises:
            RunFolderError: one cannot be written, on a full disk for example; what is there is then complete.
        """
        with _naming(self.checkpoint):
            write_atomically(self.checkpoint, lambda file: torch.save(state, file))
        self.write_tables(state["history"], landscape)

    def write_tables(
        self, history: Sequence[Mapping[str, object]], landscape: Sequence[Mapping[str, object]] | None
    ) -> None:
        """Replace the log, and the landscape's if there is one recorded."""
        with _naming(self.log):
            write_table(self.log, LOG_COLUMNS, history)
        if landscape is not None:
            with _naming(self.landscape):
                write_table(self.landscape, LANDSCAPE_COLUMNS, landscape)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, on the CPU, read as data and never as code; ``None`` if no epoch has been completed.

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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What fails inside failed for this path."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer has a RuntimeError for a full disk
        raise RunFolderError(f"{path} cannot be written: {error}") from error
