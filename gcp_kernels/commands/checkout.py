"""Which commit of a checkout is running, for what is written down; of a copy without its history too."""

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

UNKNOWN, CHANGED = "unknown", "+changes"
# Where a commit is noted before the checkout is copied. git ignores the folder.
NOTED = Path(".gpu", "commit.txt")
# What figures depend on, but for what a build leaves there, which says of what it was built itself.
ROOMS = ("benchmarks", "csrc", "experiments", "gcp_kernels")
SUFFIXES = (".cpp", ".cu", ".cuh", ".h", ".py", ".sh")
BUILT = "_build_info.py"


def commit_of(folder: Path) -> str:
    """Find a checkout's commit, marked when files differ from it; "unknown" outside a git checkout.

    Where git does not know the files, a copy's commit is the one that :func:`note_commit` noted, if its sources are
    still the same.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        found = head + (CHANGED if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        found = UNKNOWN
    if found == UNKNOWN or found.endswith(CHANGED):
        return _noted(folder) or found
    return found


def note_commit(folder: Path) -> str:
    """Write down the commit of a checkout, and what its sources are now, for a copy of it; return the commit."""
    noted = folder / NOTED
    noted.unlink(missing_ok=True)  # which another commit may have
    commit = commit_of(folder)
    noted.parent.mkdir(exist_ok=True)
    noted.write_text(f"{commit} {digest(folder, _sources(folder))}\n", encoding="utf-8")
    return commit


def digest(folder: Path, files: Iterable[Path]) -> str:
    """Hash files of a folder, by name and content."""
    whole = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        whole.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return whole.hexdigest()[:16]


def _noted(folder: Path) -> str | None:
    try:
        commit, noted = (folder / NOTED).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return commit if noted == digest(folder, _sources(folder)) else None


def _sources(folder: Path) -> list[Path]:
    every = sorted(path for room in ROOMS for path in (folder / room).rglob("*"))
    return [path for path in every if path.suffix in SUFFIXES and path.name != BUILT and path.is_file()]
