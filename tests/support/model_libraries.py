"""Installs torchvision and timm beside the torch of this environment, or leaves them out and says so.

    python tests/support/model_libraries.py [what pip was given to install torch]

A torchvision loads only beside a torch of its own version and of its own build: one for CUDA does not load beside a
torch for CPUs. pip compares versions and knows nothing of builds, so both are imported once. Where that fails, they are
removed again, and a user hears that they are missing and not that an operator does not exist. What the tests of
conversions want of them, their Python code, then lies in a folder that only tests look into (torchvision_stand_in.py).
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

FOR_TESTS = Path(sys.prefix) / "torchvision-python"
# torch 2.10's. The first ones name no torch at all: to pip they go with any.
TORCHVISION = "torchvision>=0.25"
TIMM = "timm==1.0.31"
# How pip says that there is none. Of an index that it cannot reach it says so too, after words on the network.
NONE_FITS = ("No matching distribution found", "ResolutionImpossible")
NETWORK_FAILED = ("Retrying (Retry(", "Could not fetch URL", "ConnectionError", "connection broken")

REMEDY = """\
gcp_kernels.models, gcp_kernels.integrations, `train` on a folder of images and the README's first model will say that
they are missing; all else works. To have them, take torch and torchvision from one index. For CPUs, with the URL that
PyTorch's installation page (pytorch.org/get-started) shows for them:
    make clean; make demo TORCH="torch --index-url URL"
with CUDA, where pip is not told of another place that has torch:
    make clean; make demo TORCH=torch"""


def main(torch_arguments: Sequence[str]) -> int:
    """Return 0 when both can be imported or are left out for a reason that is printed, else pip's exit code."""
    shutil.rmtree(FOR_TESTS, ignore_errors=True)
    torch = f"torch=={version('torch')}"
    # Beside the torch that is here, from the index that it came from.
    code, output = pip("install", *torch_arguments, torch, TORCHVISION)
    if code:
        reached = not any(words in output for words in NETWORK_FAILED)
        if reached and any(words in output for words in NONE_FITS):
            left_out(f"pip finds no {TORCHVISION} for {torch}")
            return 0
        return code
    importlib.invalidate_caches()
    torchvision = f"torchvision=={version('torchvision')}"
    # From the usual index: that of a torch need not have it.
    code, _ = pip("install", torch, torchvision, TIMM)
    if code:
        return code
    if (problem := why_not_importable()) is None:
        return 0
    torchvision = torchvision.partition("+")[0]
    pip("uninstall", "--yes", "torchvision", "timm")
    code, _ = pip("install", "--no-deps", "--target", str(FOR_TESTS), torchvision, TIMM)
    left_out(f"{torchvision} and {TIMM} cannot be imported beside {torch}, which is of another build ({problem})")
    return code


def pip(command: str, *arguments: str) -> tuple[int, str]:
    """Run pip; give its exit code, and what it said of errors, which is printed too."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", *arguments], stderr=subprocess.PIPE, text=True, check=False
    )
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return done.returncode, done.stderr


def why_not_importable() -> str | None:
    """Give the last line that a user sees who imports both; None when they can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", "import torchvision, timm"], stderr=subprocess.PIPE, text=True, check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def left_out(reason: str) -> None:
    rule = "=" * 100
    print(f"\n{rule}\ntorchvision and timm are left out: {reason}.\n{REMEDY}\n{rule}\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
