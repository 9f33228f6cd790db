"""The commit of a checkout that is copied without its history, for what is written down where the copy runs.

``python -m benchmarks rehearse`` notes the commit beside the archives, with a hash of the files that figures depend on;

    python -m benchmarks carried-commit FOLDER

prints it where these files are the same, and else says why not and exits with 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .extension_file import CHECKOUT, digest

NAME = "commit.txt"
ROOMS = ("benchmarks", "csrc", "experiments", "gcp_kernels")
SUFFIXES = (".cpp", ".cu", ".cuh", ".h", ".py", ".sh")
# What a build leaves there, which says of what it was built itself.
BUILT = "_build_info.py"


def sources(checkout: Path) -> list[Path]:
    """List the files that figures depend on: sources of the package, of benchmarks and of experiments."""
    every = sorted(path for room in ROOMS for path in (checkout / room).rglob("*"))
    return [path for path in every if path.suffix in SUFFIXES and path.name != BUILT and path.is_file()]


def note(checkout: Path, folder: Path, commit: str) -> None:
    """Write the commit of a checkout, and what its files are now."""
    (folder / NAME).write_text(f"{commit} {digest(checkout, sources(checkout))}\n", encoding="utf-8")


def read(checkout: Path, folder: Path) -> str:
    """Give the commit that was noted.

    Raises:
        ValueError: none was, or it was of other files.
    """
    try:
        commit, noted = (folder / NAME).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        raise ValueError(f"{folder / NAME} does not say which commit this is") from None
    if noted != digest(checkout, sources(checkout)):
        raise ValueError(f"{folder / NAME} is of commit {commit}, and files have changed since")
    return commit


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the commit; 1 where it is not known."""
    try:
        print(read(CHECKOUT, parse(arguments).folder))
    except ValueError as error:
        print(f"python -m benchmarks carried-commit: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks carried-commit",
        description="The commit of which this checkout was copied without its history, if its files are the same.",
    )
    parser.add_argument("folder", type=Path, help=f"where rehearse has written {NAME}, such as .gpu")
    return parser.parse_args(arguments)
