"""``python -m benchmarks static-extension``: the CUDA kernels as the built extension holds them, read without a GPU.

A table of what the assembler made of each kernel for each architecture, and one for each side of the shared memory that
a sample takes. The exit status is 1 if a kernel spills more registers than it may, if it has a trap, or if a pooling
kernel does not load and multiply blocks by LDSM and tensor cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch

from gcp_kernels.architectures import TARGETS
from gcp_kernels.commands.argument_types import new_file
from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.ops.cuda_device.extension import build_detail, why_not_loaded
from gcp_kernels.precision import PLANES

from ..environment import heading
from .gate import KIB, Figures
from .sass import SPILL, counted

# Of matrices: in a table for each side, that of the positions for so many channels.
CHANNELS = (64, 128, 176, 192, 256)
POSITIONS, POOLED_CHANNELS = (49, 100, 196, 256), 256
PRECISIONS = {planes: precision for precision, planes in PLANES.items()}
FORMS = ("small", "middle", "resident", "streamed")  # enum Form of csrc/policy.h
# The start of a mangled name gcp_kernels::NAME<...>, and template arguments in it: Form, int, and element types.
NAME = re.compile(r"_ZN11gcp_kernels(\d+)(\w+)")
ARGUMENTS = re.compile(r"I((?:LNS_4FormE\dE|Li\d+E|f|d|6__half|13__nv_bfloat16)+)E")
ELEMENTS = {"f": "float32", "d": "float64", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}


# Sixteen warps leave 128 registers to each thread. The forms for the largest matrices keep a few numbers on the stack
# there, as many bytes as this; where a loop of products reads or writes them, it is once for many products.
MOST_SPILLED = 32
MOST_IN_PRODUCTS = 1 / 8
# A kernel takes features, results and gradients of every dtype and stride, so that a call passes three fifths to three
# quarters of its code, 47 to 133 KiB. On an H100 warps waited for instructions 2 to 7 % of the time, most in backward
# passes (benchmarks/results/h100-2026-11-27). No kernel may be longer than the longest is now, by more than a little.
MOST_CODE_KIB = 232
INSTRUCTION_BYTES = 16


def share_of_spills(loop: dict[str, int]) -> float:
    """Count reads and writes of what is spilled in a trip through a loop of products, for each HMMA."""
    return sum(loop.get(name, 0) for name in SPILL) / max(loop.get("HMMA", 0), 1)


@dataclass(frozen=True)
class ExtensionRow:
    """A kernel for an architecture; ``variant`` says whether matrices are streamed, the precision or the dtype."""

    arch: int
    kernel: str
    variant: str
    figures: Figures

    @property
    def problems(self) -> list[str]:
        """What is not accepted."""
        figures, found = self.figures, []
        in_products = max((share_of_spills(loop) for loop in figures.loops), default=0.0)
        if figures.stack > MOST_SPILLED or in_products > MOST_IN_PRODUCTS:
            found.append(
                f"it spills {figures.stack} bytes (LDL {figures.loads}, STL {figures.stores}; "
                f"up to {in_products:.2f} for each HMMA of a loop)"
            )
        if figures.instructions * INSTRUCTION_BYTES > MOST_CODE_KIB * KIB:
            found.append(f"its {figures.instructions} instructions take more than {MOST_CODE_KIB} KiB")
        if figures.traps:
            found.append("it has a trap: it calls a function of the host, or does what is undefined")
        if not self.kernel.startswith("triu"):
            if not figures.tensor_cores.get("HMMA"):
                found.append("no HMMA multiplies its blocks")
            if not figures.ldsm:
                found.append("no LDSM loads its blocks")
        return found

    def as_dict(self) -> dict[str, object]:
        return {**vars(self), "figures": vars(self.figures), "problems": self.problems}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 0 when all is well, 1 when a kernel is not accepted, 2 when there is nothing to read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks static-extension", description=main.__doc__)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="new file for the rows as JSON lines")
    args = parser.parse_args(arguments)
    if (reason := why_not()) is not None:
        print(f"python -m benchmarks static-extension has nothing to read: {reason}", file=sys.stderr)
        return 2
    rows = read(binary())
    print(heading("python -m benchmarks static-extension", build_detail()))
    print(f"{'arch':<8}{'regs':>5}{'stack':>6}{'LDL':>5}{'STL':>5}{'HMMA':>6}{'LDSM':>6}{'SASS':>7}  kernel")
    for row in rows:
        figures = row.figures
        print(
            f"sm_{row.arch:<5}{figures.registers:5}{figures.stack:6}{figures.loads:5}{figures.stores:5}"
            f"{figures.tensor_cores.get('HMMA', 0):6}{figures.ldsm:6}{figures.instructions:7}"
            f"  {row.kernel} {row.variant}{' !' if row.problems else ''}"
        )
    print_layouts()
    if args.json is not None:
        write_text(args.json, "".join(json.dumps(row.as_dict()) + "\n" for row in rows))
    bad = [row for row in rows if row.problems]
    print(f"\n{len(rows)} kernels, {len(bad)} not accepted")
    for row in bad:
        print(f"  sm_{row.arch} {row.kernel} {row.variant}: {'; '.join(row.problems)}")
    return 1 if bad else 0


def why_not() -> str | None:
    """Why there is no extension here, or nothing to read it with."""
    return why_not_loaded() or (None if disassembler() else "cuobjdump is neither on the PATH nor in a Triton here")


def binary() -> Path:
    """Find the compiled extension."""
    spec = importlib.util.find_spec("gcp_kernels._C")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def disassembler() -> str | None:
    """Find the toolkit's cuobjdump, or the one that Triton's wheel brings."""
    spec = importlib.util.find_spec("triton")
    folders = (spec.submodule_search_locations or []) if spec else []
    bundled = [Path(folder, "backends", "nvidia", "bin", "cuobjdump") for folder in folders]
    return shutil.which("cuobjdump") or next((str(path) for path in bundled if path.is_file()), None)


def read(path: Path) -> list[ExtensionRow]:
    """Every kernel of a binary, for each architecture that it holds machine code of."""
    command = [str(disassembler()), "--dump-resource-usage", "--dump-sass", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(rows_of(listing), key=lambda row: (row.arch, row.kernel, row.variant))


def rows_of(listing: str) -> Iterator[ExtensionRow]:
    """Read the kernels in a listing: resources of all functions of one architecture come first, then their code."""
    for part in re.split(r"^Resource usage:$", listing, flags=re.MULTILINE):
        arch = re.search(r"^\tcode for sm_(\d+)", part, flags=re.MULTILINE)
        resources = dict(re.findall(r"^ Function (\S+):\n(.*)$", part, flags=re.MULTILINE))
        for name, code in re.findall(r"^\t\tFunction : (\S+)\n(.*?)(?=^\t\tFunction : |\Z)", part, re.M | re.S):
            assert arch is not None
            kernel, variant = described(name)
            yield ExtensionRow(int(arch[1]), kernel, variant, counted(resources[name] + "\n" + code))


def described(mangled: str) -> tuple[str, str]:
    """Give a kernel's name, and its template arguments in words."""
    match = NAME.match(mangled)
    if match is None:
        raise ValueError(f"no kernel of gcp_kernels: {mangled}")
    length = int(match[1])
    kernel, rest = match[2][:length], match[2][length:]
    found = ARGUMENTS.match(rest)
    words = []
    for argument in re.findall(r"LNS_4FormE\d|Li\d+|13__nv_bfloat16|6__half|[fd]", found[1] if found else ""):
        if argument.startswith("LNS_4FormE"):
            words.append(FORMS[int(argument[-1])])
        else:
            words.append(PRECISIONS[int(argument[2:])] if argument.startswith("Li") else ELEMENTS[argument])
    return kernel, " ".join(words)


def print_layouts() -> None:
    """Where the matrices of a sample are, for each GPU's limit of shared memory."""
    built: dict[int, list[str]] = {}
    for target in TARGETS.values():
        if target.build is not None:
            built.setdefault(target.shared_bytes, []).append(target.name)
    limits = {", ".join(names): limit for limit, names in built.items()}
    print("\nmatrices in shared memory of all, and the bytes that a block takes, by the limit of a block")
    pooling = torch.ops.gcp_kernels_cuda
    print_layouts_of("C", CHANNELS, pooling.pooling_layout, limits)
    print(f"\non the side of the positions, for C = {POOLED_CHANNELS}")
    print_layouts_of("M", POSITIONS, partial(pooling.positions_pooling_layout, POOLED_CHANNELS), limits)


def print_layouts_of(
    side: str, sizes: Sequence[int], layout: Callable[..., tuple[int, int, int]], limits: dict[str, int]
) -> None:
    """By the extension's own arithmetic, ``layout(size, planes, backward, limit)``."""
    print(f"{side:<5}{'pass':<11}{'precision':<10}", *(f"{f'{name}: {limit} B':>24}" for name, limit in limits.items()))
    for size, name, (planes, precision) in product(sizes, ("forward", "backward"), PRECISIONS.items()):
        found = [layout(size, planes, name == "backward", limit) for limit in limits.values()]
        cells = [f"{some}/{count}, {shared:6}" if some else "does not fit" for some, count, shared in found]
        print(f"{size:<5}{name:<11}{precision:<10}", *(f"{cell:>24}" for cell in cells))
