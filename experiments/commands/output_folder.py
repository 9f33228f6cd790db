"""The folder that an experiment writes to: new, empty, or that of runs that are gone on with; held by one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gcp_kernels.commands.argument_types import folder_problem

from ..running import RUNS
from ..running.folder_lock import lock, unlock


class UnusableOutputError(ValueError):
    """The folder cannot be written to; the message names it and says why."""


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make the folder and hold it; what was made for it and stays empty is removed afterwards.

    Raises:
        UnusableOutputError: it has other things than runs, cannot be made, or another process writes there.
    """
    if not (folder / RUNS).is_file() and (problem := folder_problem(folder)):
        raise UnusableOutputError(f"--output {folder}: {problem}")
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableOutputError(f"--output {folder}: it cannot be made: {error.strerror}") from error
    try:
        held = lock(folder)
    except BlockingIOError:
        raise UnusableOutputError(f"--output {folder}: another process writes there") from None
    try:
        yield
    finally:
        if held is not None:
            unlock(held)
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those folders, innermost first, up to the first that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
