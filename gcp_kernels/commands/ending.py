"""How every command ends: with a documented exit code and one line, whatever its standard streams lead to."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress

INTERRUPTED = 130
# As a shell reports a process that SIGPIPE has ended.
NOT_READ = 141


def run_to_its_end(name: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    What standard output cannot encode is printed as an escape. If it is closed, nothing is printed. If nobody reads it
    any more (``| head``), the command ends with ``NOT_READ`` and without a message, as other programs do. It ends with
    ``INTERRUPTED`` when the user interrupts it. It ends with 1 when the system refuses something, for example on a full
    disk, after a line that says what.

    Args:
        name: printed before an error.
        command: returns its own exit code.
    """
    _prepare_streams()
    code = 0
    try:
        try:
            code = command()
            return code
        finally:
            # Write what is left now, while an error can still be reported. At the interpreter's end it cannot.
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return code or NOT_READ
    except KeyboardInterrupt:
        return _fail(name, "interrupted", INTERRUPTED)
    except OSError as error:
        _discard_output()
        return code or _fail(name, str(error), 1)


def _prepare_streams() -> None:
    for stream_name in ("stdout", "stderr"):
        stream = getattr(sys, stream_name)
        if stream is None:  # Python's word for a closed descriptor, which the next file would get
            setattr(sys, stream_name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Lead standard output nowhere: what it still holds would fail again at the interpreter's end."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _fail(name: str, message: str, code: int) -> int:
    with suppress(OSError):
        print(f"{name}: error: {message}", file=sys.stderr, flush=True)
    return code
