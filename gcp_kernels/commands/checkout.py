"""Which commit of a checkout is running, for what is written down."""

import os
import subprocess
from pathlib import Path

# Names the commit of a copy without its history.
COMMIT = "GCP_KERNELS_COMMIT"


def commit_of(folder: Path) -> str:
    """Find a checkout's commit, marked when files differ from it; "unknown" outside a git checkout.

    The environment variable ``GCP_KERNELS_COMMIT``, if it is set, is taken instead.
    """
    if named := os.environ.get(COMMIT):
        return named

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
