"""``python -m benchmarks first-contact``: does every kernel run, and is it right? One table, in minutes, come what may.

Every kernel in every form, once, on few samples, against float64 computed on the CPU: the checks of
``benchmarks.sanitize``, in processes that may crash or hang without taking the others along. A built extension is taken
as it is; nothing is built here. Each outcome is printed when it is known, those that failed once more at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gcp_kernels.commands.argument_types import device_argument, integer_from, new_file, number_from
from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.ops.triton_device.architecture import INTERPRETED

from ..environment import environment
from .checks import Check, checks
from .outcome import NOT_RUN, VERDICTS, Outcome, serve
from .workers import Family, Limits, run_families

BACKENDS = ("cuda", "triton")
# What a backend cannot be without.
MODULES = {"cuda": "gcp_kernels._C", "triton": "triton"}
NO_GPU = "needs a GPU that torch can use"
# torch is imported, and a context made, by as many processes at once as there are cores.
START_SECONDS = 60.0
MOST_JOBS = 16
COLUMNS = (
    f"{'kernel':<28}{'form':<32}{'precision':<15}{'shape':<15}{'error / limit':>16}{'first s':>9}  verdict"
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; 0 when all that were asked for are right, 1 when one is not or cannot be, 2 without a GPU."""
    args = parse(arguments)
    if args.device.type == "cuda" and not torch.cuda.is_available():
        print(f"python -m benchmarks first-contact {NO_GPU}; --device cpu has kernels interpreted", file=sys.stderr)
        return 2
    if args.serve:
        serve(checks(args.backend, capability_of(args.device)), args.device)
        return 0
    begun = time.monotonic()
    table = OutcomeTable(environment(args.device), args.output, begun)
    there = tuple(name for name in args.backend if importlib.util.find_spec(MODULES[name]) is not None)
    for name in args.backend:
        if name not in there:
            table.missing(name, how_to_get(name, capability_of(args.device)))
    chosen = [one for one in checks(there, capability_of(args.device)) if args.only is None or args.only in str(one)]
    run(chosen, args, table, max(1.0, begun + args.seconds - time.monotonic()))
    return table.finish()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks first-contact",
        description="Every kernel in every form once against float64, whatever crashes or hangs.",
    )
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="may be repeated (both)")
    parser.add_argument("--only", metavar="TEXT", help='checks that have this text, such as "C=256" or "on chip"')
    parser.add_argument("--jobs", type=integer_from(1), help=f"processes at a time (one for each core, {MOST_JOBS})")
    parser.add_argument("--seconds", type=number_from(0, above=True), default=170.0, help="for everything (170)")
    parser.add_argument(
        "--check-seconds", type=number_from(0, above=True), default=60.0, help="for one, compilation included (60)"
    )
    parser.add_argument("--output", type=new_file, metavar="FILE", help="new file for the outcomes as JSON lines")
    parser.add_argument(
        "--device", type=str, default="cuda", help="cuda, or cpu with TRITON_INTERPRET=1 (cuda)"
    )  # fmt: skip
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    # Where torch sees no GPU, "cuda" is said to be missing as a whole, not to be a wrong argument.
    try:
        args.device = torch.device("cuda") if args.device == "cuda" else device_argument(args.device)
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --device: {error}")
    if args.device.type == "cuda" and torch.cuda.is_available():
        args.device = torch.device("cuda", args.device.index or 0)
    args.backend = tuple(args.backend or BACKENDS)
    args.jobs = args.jobs or min(os.cpu_count() or 1, MOST_JOBS)
    return args


def capability_of(device: torch.device) -> int:
    """Compute capability as one number; in the interpreter that for which configurations are chosen there."""
    if device.type == "cpu":
        return INTERPRETED.capability
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def how_to_get(backend: str, capability: int) -> str:
    """Say what to type where a backend is missing."""
    if backend == "triton":
        return "Triton is not installed: python -m pip install triton"
    arch = f"{capability // 10}.{capability % 10}"
    return (
        f"the extension is not built: GCP_KERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST={arch} python -m pip install "
        "--no-build-isolation --no-deps --editable ."
    )


def run(chosen: Sequence[Check], args: argparse.Namespace, table: OutcomeTable, seconds: float) -> None:
    """Run the checks, by family, in so many seconds, and report them to the table."""
    # Float64 results come from the CPU: threads of as many processes as there are cores would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    by_name = {str(check): check for check in chosen}
    limits = Limits(START_SECONDS, args.check_seconds, seconds)
    run_families(
        families(chosen, args.device), args.jobs, limits, lambda name, outcome: table.add(by_name[name], outcome)
    )


def families(chosen: Sequence[Check], device: torch.device) -> Iterator[Family]:
    """Group the checks that share a process, the simplest first."""
    members: dict[str, list[Check]] = {}
    for check in chosen:
        members.setdefault(check.family, []).append(check)
    for name, family in members.items():
        family.sort(key=lambda check: check.difficulty)
        yield Family(name, command(family[0].backend, device), deque(map(str, family)))


def command(backend: str, device: torch.device) -> list[str]:
    """Give the command of a process that runs checks of a backend."""
    return [
        sys.executable,
        "-m",
        "benchmarks",
        "first-contact",
        "--serve",
        "--backend",
        backend,
        "--device",
        str(device),
    ]


class OutcomeTable:
    """Prints each outcome when it comes, and writes it as a line of JSON if there is a file for it."""

    def __init__(self, machine: dict[str, Any], file: Path | None, begun: float) -> None:
        self._file, self._written = file, ""
        self._begun = begun
        self._verdicts: Counter[str] = Counter()
        self._failures: list[tuple[Any, str]] = []
        # Whether any kernel of a backend was at work.
        self._ran: dict[str, bool] = {}
        self._write({"environment": machine})
        print(
            ", ".join(f"{name} {machine[name]}" for name in ("device", "driver", "cuda", "torch", "triton", "commit"))
        )
        print(COLUMNS, flush=True)

    def missing(self, backend: str, reason: str) -> None:
        """Report a backend that was asked for, and of which nothing can run: that is a failure too."""
        self._verdicts[NOT_RUN] += 1
        line = f"{backend + ': all':<28}{NOT_RUN}: {reason}"
        self._failures.append(((backend,), line))
        self._write({"kernel": backend, "verdict": NOT_RUN, "reason": reason, "failed": True})
        print(line, flush=True)

    def add(self, check: Check, outcome: Outcome) -> None:
        """Report an outcome; if a process ends badly after its last check, that check is reported twice."""
        self._verdicts[outcome.verdict] += 1
        self._ran[check.backend] = self._ran.get(check.backend, False) or outcome.verdict != NOT_RUN
        line = row(check, outcome)
        if outcome.failed:
            self._failures.append(((check.backend, check.difficulty, str(check)), line))
        written = {name: getattr(check, name) for name in ("kernel", "form", "dtype", "precision", "shape", "limit")}
        errors = [error if math.isfinite(error) else str(error) for error in outcome.errors]
        self._write({**written, **vars(outcome), "check": str(check), "errors": errors, "failed": outcome.failed})
        print(line, flush=True)

    def finish(self) -> int:
        """Print what failed, the simplest first, and the counts; the exit status."""
        if self._failures:
            print("\nwhat failed, the simplest first:")
            for _, line in sorted(self._failures):
                print(line)
        for backend in (name for name, ran in self._ran.items() if not ran):
            print(f"\nno kernel of {backend} was run")
        seconds, count = time.monotonic() - self._begun, sum(self._verdicts.values())
        status = 0 if self._ran and all(self._ran.values()) and not self._failures else 1
        listed = ", ".join(f"{self._verdicts[verdict]} {verdict}" for verdict in VERDICTS)
        print(f"\n{count} checks in {seconds:.0f} s: {listed}; exit status {status}", flush=True)
        self._write({"counts": dict(self._verdicts), "seconds": round(seconds, 1), "exit_status": status})
        return status

    def _write(self, content: dict[str, Any]) -> None:
        if self._file is not None:
            line = json.dumps(content) + "\n"
            self._written += line
            # A file is replaced as a whole; what went into a pipe or device is not sent again.
            write_text(self._file, line if self._file.exists() and not self._file.is_file() else self._written)


def row(check: Check, outcome: Outcome) -> str:
    """Format a line of the table: errors as shares of the limit, of the value and then of the gradients."""
    shares = " ".join(f"{error / check.limit:.2g}" for error in outcome.errors) or "-"
    seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.2f}"
    reason = f": {' '.join(outcome.reason.split())}" if outcome.reason else ""
    form = f"{check.form} {outcome.layout}"
    return (
        f"{check.kernel:<28}{form:<32}{check.dtype + ' ' + check.precision:<15}{check.shape:<15}{shares:>16}"
        f"{seconds:>9}  {outcome.verdict}{reason}"
    )
