"""``python -m benchmarks static``: every configuration that the Triton backend ships, compiled without a GPU.

A table of what the assembler made of each kernel on each architecture, and with ``--loops`` of each loop of products.
The exit status is 1 if a kernel spills too many registers, needs more memory than a block may have, has products that
do not run on tensor cores, or reads one before it has ended.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gcp_kernels.architectures import TARGETS
from gcp_kernels.commands.argument_types import new_file
from gcp_kernels.commands.atomic_files import write_text

from ..environment import commit, heading
from .gate import KIB, SHARED_LIMIT, Figures, problems

if TYPE_CHECKING:
    from .triton_kernels import TritonKernel

ARCHITECTURES = tuple(capability for capability, target in TARGETS.items() if target.build is not None)


@dataclass(frozen=True)
class StaticRow:
    """A kernel on an architecture."""

    arch: int
    form: str
    direction: str
    kernel: str
    precision: str
    configuration: str
    variant: str
    figures: Figures

    @property
    def problems(self) -> list[str]:
        return problems(self.arch, self.figures)

    def __str__(self) -> str:
        parts = (f"{self.form} {self.direction}", self.kernel, self.precision, self.configuration, self.variant)
        return ", ".join(part for part in parts if part)

    def as_dict(self) -> dict[str, object]:
        """All fields, the figures among them, the limit of shared memory and the problems."""
        fields = asdict(self)
        figures = fields.pop("figures")
        return {**fields, **figures, "shared_limit": SHARED_LIMIT[self.arch], "problems": self.problems}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile and print; 0 when all is well, 1 when a kernel is not accepted, 2 when none can be compiled here."""
    args = parse(arguments)
    if (reason := why_not()) is not None:
        print(f"python -m benchmarks static cannot compile kernels: {reason}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    rows = []
    print(heading("python -m benchmarks static", f"Triton {importlib.import_module('triton').__version__}"))
    for arch in args.arch:
        print_header(arch)
        for row in measure(shipped(arch, args.variants, args.only), args.jobs):
            print_row(row)
            if args.loops:
                print_loops(row)
            rows.append(row)
    if args.json is not None:
        write_json(args.json, rows)
    bad = [row for row in rows if row.problems]
    print(f"\n{len(rows)} kernels in {time.perf_counter() - started:.0f} s, {len(bad)} not accepted")
    for row in bad:
        print(f"  sm_{row.arch} {row}: {'; '.join(row.problems)}")
    if not rows:
        print(f"no kernel has {args.only!r} in its name")
    return 1 if bad or not rows else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks static",
        description="Registers, memory and tensor-core instructions of every shipped kernel, without a GPU.",
    )
    parser.add_argument(
        "--arch",
        type=int,
        nargs="+",
        choices=sorted(SHARED_LIMIT),
        default=ARCHITECTURES,
        metavar="N",
        help=f"compute capabilities, of {', '.join(map(str, sorted(SHARED_LIMIT)))} (those that are built for)",
    )
    parser.add_argument("--only", metavar="TEXT", help='kernels whose row has this text, such as "on chip backward"')
    parser.add_argument("--variants", action="store_true", help="other inputs too: layouts, dtypes, sizes; takes long")
    parser.add_argument("--loops", action="store_true", help="barriers, waits, shared memory and loads of a k step")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time (one per CPU)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="new file for the rows as JSON lines")
    args = parser.parse_args(arguments)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    return args


def why_not() -> str | None:
    """Why no kernel can be compiled here."""
    try:
        knobs = importlib.import_module("triton").knobs
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if knobs.runtime.interpret:
        return "TRITON_INTERPRET=1 has them interpreted; take it out of the environment"
    try:
        return None if Path(knobs.nvidia.cuobjdump.path).is_file() else "Triton's cuobjdump is missing"
    except RuntimeError as error:
        return f"Triton's cuobjdump is missing: {error}"


def shipped(arch: int, variants: bool = False, only: str | None = None) -> list[TritonKernel]:
    """Give the kernels of an architecture whose row has the text ``only``."""
    from .triton_kernels import kernels

    return [kernel for kernel in kernels(arch, variants) if only is None or only in str(row_of(kernel, Figures()))]


def measure(kernels: Sequence[TritonKernel], jobs: int) -> Iterator[StaticRow]:
    """Give the kernels' rows, in order."""
    from .ahead_of_time import compile_all

    for kernel, figures in zip(kernels, compile_all(kernels, jobs), strict=True):
        yield row_of(kernel, figures)


def row_of(kernel: TritonKernel, figures: Figures) -> StaticRow:
    return StaticRow(
        kernel.arch, kernel.form, kernel.direction, kernel.name, kernel.precision, kernel.configuration,
        kernel.variant, figures,
    )  # fmt: skip


def print_header(arch: int) -> None:
    print(f"\nsm_{arch}: {SHARED_LIMIT[arch] // KIB} KiB of shared memory for a block; (columns of tensor memory)")
    columns = f"{'regs':>6}{'stack':>7}{'LDL':>5}{'STL':>5}{'shared':>8}"
    print(f"{columns}  {'tensor cores':15}{'LDSM':>4}{'SASS':>7}  kernel")


def print_row(row: StaticRow) -> None:
    figures = row.figures
    cores = " ".join(f"{name} {count}" for name, count in figures.tensor_cores.items())
    if figures.tensor_memory:
        cores += f" ({figures.tensor_memory})"
    mark = "!" if row.problems else " "
    print(
        f"{mark}{figures.registers:5}{figures.stack:7}{figures.loads:5}{figures.stores:5}{figures.shared:8}"
        f"  {cores:15}{figures.ldsm:4}{figures.instructions:7}  {row}",
        flush=True,
    )


def print_loops(row: StaticRow) -> None:
    """Print the instructions of a trip through each loop of products: counts by kind, global loads by bits."""
    for loop in row.figures.loops:
        print(f"{'':11}in a trip: {', '.join(f'{name} {count}' for name, count in loop.items())}", flush=True)


def write_json(path: Path, rows: Iterable[StaticRow]) -> None:
    """One JSON object per row, each with the versions that it was compiled with."""
    setting = {"commit": commit(), "torch": torch.__version__, "triton": importlib.import_module("triton").__version__}
    lines = [json.dumps({**row.as_dict(), "environment": setting}, allow_nan=False) + "\n" for row in rows]
    write_text(path, "".join(lines))
