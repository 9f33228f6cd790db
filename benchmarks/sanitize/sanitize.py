"""``python -m benchmarks sanitize``: every kernel on few samples against float64, under compute-sanitizer if asked.

Each operation of the CUDA extension and of the Triton backend runs forward and backward, in every form of launch and
with matrices resident and streamed. ``--tool memcheck`` and ``--tool racecheck`` run the same under that tool, and fail
where it finds anything, where it is missing, and where it did not see the kernels. Without a tool it shows that they
run, and compiles Triton's. A check that takes its process along, or the GPU from it, is named, and those after it go on
in a new process.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gcp_kernels.commands.argument_types import integer_from
from gcp_kernels.ops import backends

from .checks import Check, checks
from .outcome import NOT_RUN, OK, lost, outcome_of

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
NAME = "compute-sanitizer"
BACKENDS = ("cuda", "triton")
# What the tool ends with where it found something; the checks themselves end with 1, or with LOST where their process
# can use the GPU no more.
FOUND = 86
LOST = 87
TOOL_OPTIONS = (
    # torch and Triton ask the driver for functions that it may not have, which is no error of a kernel; a launch that
    # fails raises in the checks.
    *("--report-api-errors", "no"),
    # Not the compilers that Triton starts.
    *("--target-processes", "application-only"),
    # Until the first kernel: torch is imported from a cold disk by several processes at once.
    *("--launch-timeout", "120"),
    # After a wrong access the kernel ends, and other checks of the process can go on.
    *("--destroy-on-device-error", "kernel"),
    *("--error-exitcode", str(FOUND)),
    # Kernels of torch, in which truths are computed, would take most of the time. Triton's names are not mangled.
    *("--kernel-name", "kns=gcp_kernels", "--kernel-name", "regex=^[a-z_]+_kernel$"),
)
CHECKOUT = Path(__file__).resolve().parents[2]
NO_GPU = "needs a GPU that torch can use"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; 0 when all is right and the tool found nothing, 1 otherwise, 2 where nothing can run."""
    args = parse(arguments)
    if not args.list and not torch.cuda.is_available():
        print(f"python -m benchmarks sanitize {NO_GPU}", file=sys.stderr)
        return 2
    if args.list:
        for check in selected(args, capability=90):
            print(check)
        return 0
    major, minor = torch.cuda.get_device_capability()
    if args.share is None:
        return in_processes(args, 10 * major + minor)
    return run(args, torch.device("cuda", torch.cuda.current_device()), 10 * major + minor)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sanitize",
        description="Every kernel on few samples, under compute-sanitizer if asked.",
    )
    parser.add_argument("--tool", choices=TOOLS, help="of compute-sanitizer")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="may be repeated (both)")
    parser.add_argument("--only", metavar="TEXT", help='checks that have this text, such as "C=256" or "on chip"')
    parser.add_argument("--jobs", type=integer_from(1), default=1, help="processes that share the checks (1)")
    parser.add_argument(
        "--share",
        type=int,
        nargs=2,
        metavar=("I", "N"),
        help="every N-th check from I, in this process",
    )
    parser.add_argument("--list", action="store_true", help="print the checks for compute capability 9.0, and end")
    args = parser.parse_args(arguments)
    if args.share is not None and (args.tool is not None or args.jobs > 1):
        parser.error("--share is for one process without a tool")
    args.backend = tuple(args.backend or BACKENDS)
    return args


def selected(args: argparse.Namespace, capability: int) -> list[Check]:
    found = [one for one in checks(args.backend, capability) if args.only is None or args.only in str(one)]
    first, step = args.share or (0, 1)
    return found[first::step]


def run(args: argparse.Namespace, device: torch.device, capability: int) -> int:
    """Run the checks in this process, with a line for each; a backend of which nothing can run is a failure."""
    for name in args.backend:
        tiny = torch.zeros((), dtype=torch.float32, device=device).expand(1, 2, 2)
        if (reason := backends.BACKENDS[name].why_not("isqrt_pool", tiny)) is not None:
            print(f"FAILED  no kernel of {name} can run: {reason}")
            return 1
    found = selected(args, capability)
    print(begin_line(len(found)), flush=True)
    failures = 0
    for number, check in enumerate(found, 1):
        if passes(check, device):
            continue
        failures += 1
        if lost(device):
            print(f"{number} checks, {failures} failed; this process can use the GPU no more", flush=True)
            return LOST
    print(f"{len(found)} checks, {failures} failed", flush=True)
    return 1 if failures else 0


def begin_line(checks: int) -> str:
    """Write the line that a process prints before its first check."""
    return f"{checks} checks begin"


def passes(check: Check, device: torch.device) -> bool:
    """Run one check and print how it went; what this GPU cannot run is no failure."""
    outcome = outcome_of(check, device)
    errors = " / ".join(f"{error:.1e}" for error in outcome.errors)
    words = [str(check), outcome.layout] if outcome.layout else [str(check)]
    said = outcome.reason or f"error {errors}, limit {check.limit:.1e}"
    verdict = {OK: "ok     ", NOT_RUN: "not run"}.get(outcome.verdict, "FAILED ")
    print(f"{verdict} {' '.join(words)}: {said}", flush=True)
    return not outcome.failed


def in_processes(args: argparse.Namespace, capability: int) -> int:
    """Share the checks among processes, each under the tool; print what a process printed when it has ended."""
    prefix: list[str] = []
    if args.tool is not None:
        program = tool_path()
        if program is None:
            print(
                f"FAILED  {NAME} is missing: it is neither on the PATH nor in the bin of CUDA_HOME or /usr/local/cuda; "
                "the CUDA toolkit has it"
            )
            return 1
        prefix = [program, "--tool", args.tool, *TOOL_OPTIONS]
    # Float64 results come from the CPU: threads of as many processes as there are cores would wait for one another.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if prefix:  # blocks of torch's cache would hide that a kernel leaves its own
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    found = selected(args, capability)
    if not found:
        print(f"FAILED  no check has the text {args.only!r}; --list prints them")
        return 1
    running = [Share(args, prefix, environment, index) for index in range(min(args.jobs, len(found)))]
    # Who ends this for taking too long still reads what was found so far.
    signal.signal(signal.SIGTERM, stop)
    worst = 0
    try:
        while running:
            time.sleep(0.05)
            for share in [one for one in running if one.process.poll() is not None]:
                running.remove(share)
                worst |= share.end()
                if (rest := share.first_left(found)) is not None:
                    running.append(Share(args, prefix, environment, rest))
    finally:
        for share in running:
            share.process.kill()
            share.end()
    return worst


def stop(number: int, _: object) -> None:
    """End in order, once: ``timeout`` sends the signal twice, and the second would end the printing."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


class Share:
    """A process of some checks, every ``--jobs``-th from ``first``, and what it prints."""

    def __init__(self, args: argparse.Namespace, prefix: list[str], environment: dict[str, str], first: int) -> None:
        self.args, self.first = args, first
        self.command = share_command(args, first)
        # A file: a pipe that nobody reads yet would stop the process.
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*prefix, *self.command], cwd=CHECKOUT, env=environment, stdout=self._output, stderr=subprocess.STDOUT
        )
        self._printed = ""

    def end(self) -> int:
        """Print what it printed, and what was wrong with it; 1 if something was."""
        code = self.process.wait()
        self._output.seek(0)
        self._printed = self._output.read()
        self._output.close()
        print(self._printed, end="", flush=True)
        problem = verdict(self.args.tool, code, self._printed)
        if problem is not None:
            print(f"FAILED  {' '.join(self.command)}: {problem}", flush=True)
        return 0 if problem is None else 1

    def first_left(self, found: Sequence[Check]) -> int | None:
        """Find the first check that it did not reach, and name the one that ended it. None if there is none."""
        begun = re.search(r"^\d+ checks begin$", self._printed, re.MULTILINE)
        if begun is None or re.search(r"^\d+ checks, \d+ failed$", self._printed, re.MULTILINE):
            return None  # nothing began, and nothing would in another process; or it came to its end
        done = len(re.findall(r"^(?:ok|FAILED|not run) ", self._printed, re.MULTILINE))
        left = self.first + self.args.jobs * done
        if "can use the GPU no more" not in self._printed and left < len(found):
            print(f"FAILED  {found[left]}: its process ended with {self.process.returncode}", flush=True)
            left += self.args.jobs
        return left if left < len(found) else None


def share_command(args: argparse.Namespace, first: int) -> list[str]:
    """Give the command that runs a share of the checks in its own process, without a tool."""
    only = [] if args.only is None else ["--only", args.only]
    names = [word for name in args.backend for word in ("--backend", name)]
    return [sys.executable, "-m", "benchmarks", "sanitize", *names, *only, "--share", str(first), str(args.jobs)]


def verdict(tool: str | None, code: int, printed: str) -> str | None:
    """Say what was wrong with a share."""
    if code == FOUND and tool is not None:
        return f"{tool} found errors"
    if code == LOST:
        return "after the last of its checks it could use the GPU no more"
    if code:
        return f"ended with {code}"
    if tool is None:
        return None
    # Hazards that racecheck calls warnings may not change its exit status.
    counts = re.findall(r" SUMMARY: (\d+)", printed)
    if not counts:  # for instance because the tool could not attach to the driver
        return f"{tool} printed no summary: it saw no kernel"
    return f"{tool} found {', '.join(counts)}" if any(map(int, counts)) else None


def tool_path() -> str | None:
    """Find compute-sanitizer on the PATH, or in the toolkit."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [Path(home, "bin") for home in (*homes, "/usr/local/cuda") if home]
    found = (shutil.which(NAME, path=str(folder)) for folder in folders)
    return shutil.which(NAME) or next((path for path in found if path), None)
