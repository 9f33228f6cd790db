"""Whether the extension that lies in the checkout can be taken as it is, or has to be built.

    python -m benchmarks extension-file 9.0

says which, and exits with 0 or 1. Where the build was noted (``note_sources``), the content of its sources is compared;
else their time, which a copied checkout may have lost.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gcp_kernels.commands.checkout import digest

CHECKOUT = Path(__file__).resolve().parents[2]
FILE = "gcp_kernels/_C.abi3.so"
BUILD_INFO = "gcp_kernels/_build_info.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer for the architecture that is named, such as 9.0; 0 if it can be taken, else 1."""
    reason = why_not(CHECKOUT, parse(arguments).architecture)
    print(f"{FILE} is taken as it is" if reason is None else f"{FILE} has to be built: {reason}", flush=True)
    return 0 if reason is None else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks extension-file",
        description="Can the extension that lies in this checkout be taken as it is, or has it to be built?",
    )
    parser.add_argument("architecture", type=capability, help="compute capability of the GPU, such as 9.0")
    return parser.parse_args(arguments)


def capability(text: str) -> str:
    """Take an architecture from a command line."""
    if not re.fullmatch(r"\d+\.\d", text):
        raise argparse.ArgumentTypeError(f"one architecture, such as 9.0, got {text!r}")
    return text


def why_not(checkout: Path, architecture: str, python: str = sys.executable) -> str | None:
    """Say why the extension in a checkout cannot be used for a GPU of this architecture; None if it can.

    It was built of other sources or for other GPUs, or ``python`` cannot import it.
    """
    built, info = checkout / FILE, checkout / BUILD_INFO
    for path in (built, info):
        if not path.is_file():
            return f"there is no {path.relative_to(checkout)}"
    noted = re.search(r"^SOURCES = '(\w+)'$", info.read_text(encoding="utf-8"), re.MULTILINE)
    if noted is not None:
        if noted[1] != digest(checkout, sources(checkout)):
            return "its sources have changed"
    elif newer := [path for path in sources(checkout) if path.stat().st_mtime > built.stat().st_mtime]:
        return f"{newer[0].relative_to(checkout)} is newer"
    if (found := architectures(info)) is None or architecture not in found:
        return f"it was built for {', '.join(found or ['no architecture'])}, not for {architecture}"
    command = [python, "-c", "import torch, gcp_kernels._C"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"it cannot be imported: {lines[-1]}"
    return None


def sources(checkout: Path) -> list[Path]:
    """List the files that the extension is built of."""
    build = [checkout / "setup.py", checkout / "gcp_kernels" / "architectures.py"]
    return [*build, *sorted(path for path in (checkout / "csrc").rglob("*") if path.is_file())]


def note_sources(checkout: Path) -> None:
    """Say in the build's own file what the extension was built of: the sources that are there now."""
    info = checkout / BUILD_INFO
    kept = [line for line in info.read_text(encoding="utf-8").splitlines() if not line.startswith("SOURCES = ")]
    info.write_text("\n".join([*kept, f"SOURCES = {digest(checkout, sources(checkout))!r}", ""]), encoding="utf-8")


def architectures(info: Path) -> list[str] | None:
    """Find for which architectures the build has machine code; None where nothing was built."""
    found = re.search(r"^DETAIL = '.* for ([\d.;+a-zA-Z ]+)'$", info.read_text(encoding="utf-8"), re.MULTILINE)
    return None if found is None else [name.removesuffix("+PTX") for name in re.split(r"[; ]", found[1])]
