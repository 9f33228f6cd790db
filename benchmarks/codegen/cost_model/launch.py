"""The launches of a shape as csrc/ lays them out: threads, shared memory and arguments, from its own headers.

``launch.cpp`` is compiled for the host by g++, so that structures and layouts are those of the sources; the
extension that is read must be built from the same ones.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gcp_kernels.architectures import TARGETS
from gcp_kernels.precision import PLANES

from ...cases import Case
from ..static_extension import FORMS
from ..static_extension import PRECISIONS as NAMES

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[2] / "csrc"
ELEMENTS = {"float16": 0, "bfloat16": 1, "float32": 2}
DOES_NOT_FIT = 3


@dataclass(frozen=True)
class Launch:
    """A kernel, by its name and variant, and what it is launched with for one sample.

    ``side`` is that of a symmetric matrix of the iteration, in blocks.
    """

    kernel: str
    variant: str
    threads: int
    shared_bytes: int
    side: int
    arguments: bytes

    @property
    def blocks(self) -> int:
        """Blocks of a symmetric matrix."""
        return self.side * (self.side + 1) // 2


def why_not() -> str | None:
    """Why there are no launches to be had here."""
    if shutil.which("g++") is None:
        return "g++, which compiles csrc's layouts for the host, is not on the PATH"
    return None if CSRC.is_dir() else f"{CSRC} is not there: this is no checkout"


def launches(case: Case, arch: int) -> list[Launch]:
    """Give both passes of a case, for the upper triangle as result.

    Raises:
        ValueError: csrc has no kernels for this shape on this architecture.
    """
    values = (case.channels, case.positions, case.n_iter, PLANES[case.precision], ELEMENTS[case.dtype])
    command = [str(program()), *map(str, (*values, 1, TARGETS[arch].shared_bytes))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == DOES_NOT_FIT:
        raise ValueError(f"{case.label} does not fit in a CTA of sm_{arch}")
    done.check_returncode()
    found = []
    for line in done.stdout.splitlines():
        kernel, *numbers, arguments = line.split()
        form, planes, threads, shared_bytes, side = map(int, numbers)
        variant = f"{FORMS[form]} {NAMES[planes]}"
        found.append(Launch(kernel, variant, threads, shared_bytes, side, bytes.fromhex(arguments)))
    return found


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def program() -> Path:
    """Compile it, once for each process."""
    path = Path(_folder().name, "predict_launch")
    command = ["g++", "-std=c++17", "-O1", f"-I{CSRC}", str(HERE / "launch.cpp"), "-o", str(path)]
    subprocess.run(command, check=True)
    return path
