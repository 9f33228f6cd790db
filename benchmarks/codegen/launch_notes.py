"""A stand-in for a GPU on which Triton's kernels are launched in name only, and what they would compile is noted.

To be imported before Triton is. As a plugin of pytest it notes what tests launch, a line of JSON for each kernel, in a
file for each process, ``$NOTES.<process>``; such tests fail, since nothing runs:

    NOTES=/tmp/notes python -m pytest -p benchmarks.codegen.launch_notes -k triton tests
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # conftest.py of the tests sets it only where it is not set

import torch
from triton import knobs
from triton.runtime.driver import driver

from gcp_kernels.ops.triton_device import architecture, backend

from .stub_driver import StubDriver
from .triton_kernels import MULTIPROCESSORS, TritonKernel, specialization

# Module, name and specialization data of a kernel: all that Triton's cache knows it by.
Note = tuple[str, str, str]


def pretend(arch: int, note: Callable[[Note], None]) -> None:
    """From now on tensors of the CPU are taken as on a GPU of ``arch``, such as 90; ``note`` gets each new kernel."""
    asked: set[Note] = set()

    def before_compilation(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        found = (fn.module, fn.name, specialization(compile))
        if found not in asked:
            asked.add(found)
            note(found)
        return True  # and so neither compiled nor launched

    def why_not(operation: str, tensor: torch.Tensor, precision: str = "default") -> str | None:
        fits = tensor.dtype in backend.DTYPES and tensor.shape[1] <= backend.MOST_CHANNELS
        return None if operation in backend.OPERATIONS and fits else "not for Triton"

    backend.why_not = why_not
    architecture.INTERPRETED = architecture.Architecture(arch, MULTIPROCESSORS)
    driver.set_active(StubDriver(arch))
    knobs.runtime.jit_cache_hook = before_compilation


def kernels_of(notes: Iterable[Note], arch: int) -> list[TritonKernel]:
    """Give the kernels as ``static_compile`` takes them."""
    return [
        TritonKernel(
            arch=arch, form="", direction="", name=name, precision="", configuration="", variant="", module=module,
            specialization=data,
        )
        for module, name, data in notes
    ]  # fmt: skip


def read(files: Iterable[Path]) -> list[Note]:
    """Give the notes of all files, each once."""
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys((module, name, data) for module, name, data in lines))


def pytest_configure(config: Any) -> None:
    """Note what the tests of this process launch."""
    path = Path(f"{os.environ['NOTES']}.{os.getpid()}")

    def write(note: Note) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(note) + "\n")

    pretend(int(os.environ.get("NOTES_ARCH", "90")), write)
