"""What goes wrong with the processes that read images, as against what goes wrong with an image."""

import errno
import multiprocessing
import re

# torch's own words: a worker that has ended, or what all of them share that is used up.
SIGNS = re.compile(
    r"DataLoader worker \(pid|</torch_|shared memory\(shm\)|items of ancdata|^Too many open files"
    r"|Pin memory thread exited"
)
USED_UP = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
ADVICE = (
    "fewer --workers need less memory, files and shared memory (/dev/shm), --workers 0 needs none of the last; "
    "a container gets more of it by --shm-size"
)


def why_not(workers: int) -> str | None:
    """Say why so many processes that read images cannot be started here, and what to do; ``None`` if they can.

    Tried is what a loader makes for them. One that finds out by itself ends in two errors, and neither speaks of shared
    memory.
    """
    if workers == 0:
        return None
    try:
        _ = multiprocessing.Event(), [multiprocessing.Queue() for _ in range(1 + workers)]
    except (OSError, ImportError) as error:
        return _cannot("be started", f"no semaphores in shared memory, or no pipes: {error}")
    return None


def trouble(error: BaseException) -> str | None:
    """Say in a line what happened to the processes that read images, and what to do; ``None`` for another error.

    Of several lines, as a worker's error has them with its traceback, the last one says what it was.
    """
    reason = str(error).strip().rpartition("\n")[2]
    if isinstance(error, OSError):
        if error.errno not in USED_UP:
            return None
    elif not (isinstance(error, RuntimeError) and SIGNS.search(reason)):
        return None
    return _cannot("go on", reason.removeprefix("RuntimeError: "))


def _cannot(what: str, reason: str) -> str:
    return f"the processes that read images cannot {what}: {reason} ({ADVICE})"
