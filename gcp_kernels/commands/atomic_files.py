"""Files that are replaced as a whole: whenever a process is killed, the old one or the new one is there, complete."""

import csv
import errno
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"
# How a file system says that it cannot bring this to the disk by itself; a disk that fails says something else.
NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


class NotWrittenError(OSError):
    """A file or folder cannot be written; the message names it and says why."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the system refuses inside into a :class:`NotWrittenError` of this path."""
    try:
        yield
    except NotWrittenError:
        raise
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}" if error.strerror else str(error)
        raise NotWrittenError(f"{path} cannot be written: {reason}") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file next to ``path``; when its content is on the disk, rename it to ``path``.

    What a killed process leaves behind has a name of its own for each ``path``, so the next one overwrites it. A link
    stays one, to the new content. What is no file, as /dev/stdout may be, is written to as it is.

    Raises:
        NotWrittenError: the file cannot be written; ``path`` is then as it was. What ``write`` raises too.
    """
    with naming(path):
        if path.exists() and not path.is_file():
            _fill(path, write)
            return
        path = Path(os.path.realpath(path))
        partial = path.with_name(f".{path.name}{PARTIAL}")
        try:
            _fill(partial, write)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by this text in UTF-8.

    What UTF-8 cannot encode, a byte of a file's name that is none of its own, is written as an escape, as JSON has it.
    """
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Replace ``path`` by a CSV of these rows, every float with all of its digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class _Remembering(io.BufferedWriter):
    """Keeps the first refusal of the system, which libraries that write into a file may hide behind another error."""

    refusal: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.refusal = self.refusal or error
            raise


def _fill(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have ``write`` write the file, and bring it to the disk."""
    file = _Remembering(io.FileIO(path, "w"))
    try:
        with file:
            write(file)
            file.flush()
            _sync(file.fileno())
    except Exception:
        if file.refusal is not None:
            raise file.refusal from None
        raise


def _sync_folder(path: Path) -> None:
    """Bring the entries of a folder to the disk: a new name is not there with the content of its file."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:  # one that may be written to and not read
        return
    try:
        _sync(folder)
    finally:
        os.close(folder)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
