"""What goes wrong with the processes that read images, as against what goes wrong with an image."""

import errno
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


def trouble(error: BaseException) -> str | None:
    """One line of what happened to the processes that read images, and what to do; ``None`` for any other error.

    Of several lines, as a worker's error has them with its traceback, the last one says what it was.
    """
    reason = str(error).strip().rpartition("\n")[2]
    if isinstance(error, OSError):
        if error.errno not in USED_UP:
            return None
    elif not (isinstance(error, RuntimeError) and SIGNS.search(reason)):
        return None
    return f"the processes that read images cannot go on: {reason.removeprefix('RuntimeError: ')} ({ADVICE})"
