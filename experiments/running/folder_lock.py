"""One process at a time works in a folder: a lock that ends with the process, however that ends, and leaves no file."""

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_held: set[int] = set()


def lock(folder: Path) -> int | None:
    """Lock an existing folder until :func:`unlock`; ``None`` where the file system, or Windows, has no locks.

    Raises:
        BlockingIOError: another process has it, or this one has it already.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    _held.add(descriptor)
    return descriptor


def unlock(held: int) -> None:
    """Give a :func:`lock` back."""
    if sys.platform != "win32":
        _held.discard(held)
        fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A forked process, such as one that reads images, may outlive this one by seconds and must not keep the folder for it.
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)
