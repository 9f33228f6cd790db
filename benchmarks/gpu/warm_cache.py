"""``python -m benchmarks warm-cache``: compile what a GPU will ask Triton for, on a machine without one.

The kernels of ``benchmarks sanitize``, of the first contact and of the self-test, and those noted by tests
(``launch_notes``), go into ``TRITON_CACHE_DIR``. A machine with a GPU, the same Triton, and that folder then compiles
launchers only. The key of a kernel has the Triton wheel and its ptxas in it, so run it with the very wheel.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..codegen.launch_notes import Note, kernels_of, pretend, read  # isort: skip  before Triton is imported

import torch

from gcp_kernels.commands import selftest
from gcp_kernels.commands.argument_types import integer_from

from ..codegen.ahead_of_time import compile_all
from ..codegen.triton_kernels import launch
from ..sanitize.checks import FunctionCheck, checks
from .extension_file import CHECKOUT


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile; 0 when all did, 1 otherwise."""
    args = parse(arguments)
    if args.notes:
        sys.path.append(str(CHECKOUT))  # some of them launch kernels of their own
    notes = dict.fromkeys(read(args.notes))
    pretend(args.arch, lambda note: notes.update({note: None}))
    if problem := ask(args.arch, args.only):
        print(f"FAILED  {problem}")
        return 1
    if args.list:
        for module, name, _ in notes:
            print(module, name)
        return 0
    return compile_into_cache(list(notes), args.arch, args.jobs)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks warm-cache", description="Compile what a GPU will ask Triton for, without one."
    )
    parser.add_argument("--arch", type=int, default=90, metavar="N", help="compute capability, such as 90")
    parser.add_argument("--jobs", type=integer_from(1), default=os.cpu_count() or 1, help="compilers at a time (cores)")
    parser.add_argument("--only", metavar="TEXT", help="only checks that have this text, and not the self-test")
    parser.add_argument("--notes", type=Path, nargs="*", default=[], metavar="FILE", help="also what tests launched")
    parser.add_argument("--list", action="store_true", help="print the kernels, compile nothing")
    return parser.parse_args(arguments)


def ask(arch: int, only: str | None) -> str | None:
    """Launch in name what the checks launch, and the self-test; what kept that from being asked, or None."""
    torch.set_num_threads(1)
    for check in checks(("triton",), arch):
        if only is not None and only not in str(check):
            continue
        # What comes out is of no interest: nothing has run.
        if isinstance(check, FunctionCheck):
            check.work(torch.device("cpu")).launch()
        else:
            launch(check.case)
    if only is None:
        for name in [name for name in selftest.BACKENDS if name != "triton"]:
            selftest.BACKENDS.pop(name)
        table = io.StringIO()
        with contextlib.redirect_stdout(table):
            selftest.run(argparse.Namespace())
        # Wrong numbers are as they should be here. A row that raised may have asked for less than on a GPU.
        return next((line for line in table.getvalue().splitlines() if "  FAILED " in line), None)
    return None


def compile_into_cache(notes: Sequence[Note], arch: int, jobs: int) -> int:
    """Compile each; say which cannot, and how long all took, and the slowest, as it would on a GPU."""
    begun, failures, slowest = time.monotonic(), 0, (0.0, "none")
    kernels = kernels_of(notes, arch)
    for kernel, found in zip(kernels, compile_all(kernels, jobs), strict=True):
        if found.failure:
            failures += 1
            print(f"FAILED  {kernel.module} {kernel.name}: {found.failure}", flush=True)
        slowest = max(slowest, (found.seconds, f"{kernel.module.rpartition('.')[2]} {kernel.name}"))
    said = f"{len(kernels)} kernels, {failures} failed, in {time.monotonic() - begun:.0f} s"
    print(f"{said}; {slowest[0]:.0f} s for the slowest, {slowest[1]}", flush=True)
    return 1 if failures else 0
