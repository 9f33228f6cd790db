"""Types of command line options for argparse. What refuses a value says what is allowed."""

import argparse
import os
from collections.abc import Callable
from math import inf
from pathlib import Path

import torch


def integer_from(lowest: int) -> Callable[[str], int]:
    """Make an argparse type: an integer from ``lowest`` to 2^63 - 1, the largest seed that torch takes."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value < 2**63:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {lowest}, got {text!r}")
        return value

    return parse


def number_from(lowest: float, *, above: bool = False, below: float = inf) -> Callable[[str], float]:
    """Make an argparse type: a finite number of at least ``lowest``, or above it, and below ``below``."""
    limits = f"{'above' if above else 'of at least'} {lowest:g} and {'finite' if below == inf else f'below {below:g}'}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = inf
        if not (lowest < value < below if above else lowest <= value < below):
            raise argparse.ArgumentTypeError(f"must be a number {limits}, got {text!r}")
        return value

    return parse


def new_folder(text: str) -> Path:
    """Parse a folder that is empty or not there, so that nothing in it is overwritten."""
    return _unused(text, folder_problem(Path(text)))


def new_file(text: str) -> Path:
    """Parse a file that is empty or not there, in a folder that is; or a device or pipe."""
    return _unused(text, file_problem(Path(text)))


def _unused(text: str, problem: str | None) -> Path:
    if problem is not None:
        raise argparse.ArgumentTypeError(f"{text}: {problem}")
    return Path(text)


def folder_problem(path: Path) -> str | None:
    """Say why results cannot be written to the folder ``path``, as a sentence fragment; None when they can."""
    if path.is_dir():
        return "it is not empty; name a new folder" if any(path.iterdir()) else None
    return "it is a file; name a new folder" if path.exists() else None


def file_problem(path: Path) -> str | None:
    """Say why a result cannot be written to the file ``path``, as a sentence fragment; None when it can."""
    if path.is_dir():
        return "it is a folder; name a new file"
    if path.is_file() and path.stat().st_size:
        return "it is there already; name a new file"
    if path.is_file() and any(os.path.samestat(path.stat(), os.fstat(stream)) for stream in (1, 2) if _is_open(stream)):
        return "this command prints there already; name another file"
    return None if path.parent.is_dir() else f"{path.parent} is not an existing folder"


def device_argument(text: str) -> torch.device:
    """Parse a CPU, or a CUDA device that this machine has, by its index."""
    try:
        device = torch.device(text)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise argparse.ArgumentTypeError(f"{text!r} is not here: torch sees {count} CUDA devices")
    # torch.cuda.set_device, for example, takes no device without an index.
    return torch.device("cuda", 0) if device == torch.device("cuda") else device


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True
