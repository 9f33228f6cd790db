"""Files that are replaced as a whole: whenever a process is killed, the old one or the new one is there, complete."""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file beside ``path``, and when its content is on the disk put it in the place of ``path``.

    What a killed process leaves behind has a name of its own for each ``path``, so the next one overwrites it.

    Raises:
        OSError: the file cannot be written; ``path`` is then as it was. What ``write`` raises too.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # The new name is an entry of the folder, which is written to the disk by itself.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by this text in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Replace ``path`` by a CSV of these rows, every float with all of its digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
