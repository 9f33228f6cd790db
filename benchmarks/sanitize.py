"""``python -m benchmarks.sanitize``: every kernel on few samples against float64, under compute-sanitizer if asked.

Each operation of the CUDA extension and of the Triton backend runs forward and backward, in every form of launch and
with matrices resident and streamed. ``--tool memcheck`` and ``--tool racecheck`` run the same under that tool, and fail
where it finds anything, where it is missing, and where it did not see the kernels. Without a tool it shows that they
run, and compiles Triton's.
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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gcp_kernels import backends
from gcp_kernels.commands.argument_types import integer_from
from gcp_kernels.precision import PLANES

if TYPE_CHECKING:
    from .sanitize_cases import Check

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
NAME = "compute-sanitizer"
BACKENDS = ("cuda", "triton")
# What the tool ends with where it found something; the checks themselves end with 1.
FOUND = 86
CHECKOUT = Path(__file__).resolve().parent.parent
NO_GPU = "needs a GPU that torch can use"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; 0 when all is right and the tool found nothing, 1 otherwise, 2 where nothing can run."""
    args = parse(arguments)
    if not args.list and not torch.cuda.is_available():
        print(f"python -m benchmarks.sanitize {NO_GPU}", file=sys.stderr)
        return 2
    if args.list:
        for check in selected(args, capability=90):
            print(check)
        return 0
    if args.tool is not None or args.jobs > 1:
        return in_processes(args)
    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    return run(args, device, 10 * major + minor)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sanitize",
        description="Every kernel on few samples, under compute-sanitizer if asked.",
    )
    parser.add_argument("--tool", choices=TOOLS, help="of compute-sanitizer")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="may be repeated (both)")
    parser.add_argument("--only", metavar="TEXT", help='checks that have this text, such as "C=256" or "on chip"')
    parser.add_argument("--jobs", type=integer_from(1), default=1, help="processes that share the checks (1)")
    parser.add_argument(
        "--share", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th check from I"
    )
    parser.add_argument("--list", action="store_true", help="print the checks for compute capability 9.0, and end")
    args = parser.parse_args(arguments)
    args.backend = tuple(args.backend or BACKENDS)
    return args


def selected(args: argparse.Namespace, capability: int) -> list[Check]:
    from .sanitize_cases import checks

    found = [one for one in checks(args.backend, capability) if args.only is None or args.only in str(one)]
    first, step = args.share
    return found[first::step]


def run(args: argparse.Namespace, device: torch.device, capability: int) -> int:
    """The checks, in this process, a line for each; a backend of which nothing can run is a failure."""
    for name in args.backend:
        tiny = torch.zeros((), dtype=torch.float32, device=device).expand(1, 2, 2)
        if (reason := backends.BACKENDS[name].why_not("isqrt_pool", tiny)) is not None:
            print(f"FAILED  no kernel of {name} can run: {reason}")
            return 1
    found = selected(args, capability)
    failures = 0
    for number, check in enumerate(found, 1):
        if passes(check, device):
            continue
        failures += 1
        if number < len(found) and lost(device):
            # After an illegal access this process can use the GPU no more, and every later check would seem to fail.
            print(f"{number} checks, {failures} failed; the others in a new process", flush=True)
            first, step = args.share
            subprocess.call(share_command(args, first + step * number, step), cwd=CHECKOUT)
            return 1
    print(f"{len(found)} checks, {failures} failed", flush=True)
    return 1 if failures else 0


def lost(device: torch.device) -> bool:
    """Whether an error stays with the process."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def passes(check: Check, device: torch.device) -> bool:
    """Run one check and print how it went; what this GPU cannot run is no failure."""
    if (reason := check.why_not(device)) is not None:
        print(f"not run {check}: {reason}", flush=True)
        return True
    try:
        errors = check.errors(device)
        torch.cuda.synchronize(device)
    except Exception as error:  # whatever it is, it is this check's result; the next ones go on
        print(f"FAILED  {check}: {type(error).__name__}: {error}", flush=True)
        return False
    right = all(error <= check.limit for error in errors)
    listed = " / ".join(f"{error:.1e}" for error in errors)
    print(
        f"{'ok      ' if right else 'FAILED  '}{check}{layout(check, device)}: error {listed}, limit {check.limit:.1e}"
    )
    sys.stdout.flush()
    return right


def layout(check: Any, device: torch.device) -> str:
    """How many matrices of the CUDA extension's pooling are resident in shared memory, forward and backward."""
    if check.backend != "cuda" or check.operation != "isqrt_pool":
        return ""
    operators = torch.ops.gcp_kernels_cuda
    limit = operators.shared_memory_limit(device.index)
    shape = (check.c, PLANES[check.precision])
    counts = [operators.pooling_layout(*shape, backward, limit)[:2] for backward in (False, True)]
    return "".join(f" {resident}/{matrices}" for resident, matrices in counts) + " resident"


def in_processes(args: argparse.Namespace) -> int:
    """The checks shared among processes, each under the tool; what they print comes one process after another."""
    prefix: list[str] = []
    if args.tool is not None:
        program = tool_path()
        if program is None:
            print(
                f"FAILED  {NAME} is missing: it is neither on the PATH nor in the bin of CUDA_HOME or /usr/local/cuda; "
                "the CUDA toolkit has it"
            )
            return 1
        # torch and Triton ask the driver for functions that it may not have, which is no error of a kernel; a launch
        # that fails raises in the checks.
        options = ["--report-api-errors", "no", "--target-processes", "application-only"]
        options += ["--error-exitcode", str(FOUND)]
        # Kernels of torch, in which truths are computed, would take most of the time. Triton's names are not mangled.
        options += ["--kernel-name", "kns=gcp_kernels", "--kernel-name", "regex=^[a-z_]+_kernel$"]
        prefix = [program, "--tool", args.tool, *options]
    shares = [[*prefix, *share_command(args, index, args.jobs)] for index in range(args.jobs)]
    # Float64 results come from the CPU: threads of as many processes as there are cores would wait for one another.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if prefix:  # blocks of torch's cache would hide that a kernel leaves its own
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    # A file each: a pipe that nobody reads yet would stop its process.
    outputs = [tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") for _ in shares]  # noqa: SIM115
    running = [
        subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        for command, output in zip(shares, outputs, strict=True)
    ]
    # Who ends this for taking too long still reads what was found so far.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    worst = 0
    try:
        for process in running:
            process.wait()
    finally:
        for command, process, output in zip(shares, running, outputs, strict=True):
            process.kill()
            code = process.wait()
            output.seek(0)
            printed = output.read()
            output.close()
            print(printed, end="", flush=True)
            problem = verdict(args.tool, code, printed)
            if problem is not None:
                print(f"FAILED  {' '.join(command[len(prefix) :])}: {problem}", flush=True)
                worst = 1
    return worst


def share_command(args: argparse.Namespace, index: int, step: int) -> list[str]:
    """A share of the checks, in a process of its own and without a tool."""
    only = [] if args.only is None else ["--only", args.only]
    names = [word for name in args.backend for word in ("--backend", name)]
    return [sys.executable, "-m", "benchmarks.sanitize", *names, *only, "--share", str(index), str(step)]


def verdict(tool: str | None, code: int, printed: str) -> str | None:
    """What was wrong with a share."""
    if code == FOUND and tool is not None:
        return f"{tool} found errors"
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
    """compute-sanitizer on the PATH, or in the toolkit."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [Path(home, "bin") for home in (*homes, "/usr/local/cuda") if home]
    found = (shutil.which(NAME, path=str(folder)) for folder in folders)
    return shutil.which(NAME) or next((path for path in found if path), None)


if __name__ == "__main__":
    sys.exit(main())
