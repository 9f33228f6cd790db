"""``python -m benchmarks tune KERNEL ...``: a search, on this GPU, for the Triton backend's launch configurations.

It prints a replacement for a table in ``gcp_kernels/ops/triton_device/policy.py``, the measured reason above each
entry. A person reads it and puts it there: nothing is searched for when the package runs.

Every candidate is compiled first, for all architectures that the table serves, and is out if it spills more registers
than ``static`` allows, needs too much shared memory or leaves its products to scalar arithmetic. What is left, and what
is shipped in any case, runs once on the very inputs that are timed, and is out if float64 disagrees. The rest is timed
beside what is shipped, which stays unless something is faster by more than the spread. ``thresholds`` times a program
for each sample against a launch for each phase, over B, C and M.

The CUDA C++ kernels have nothing to search for. Threads follow from C; matrices are resident in shared memory as far as
they fit, and the ring for streaming takes what is left, because each resident one saves its traffic through L2 and
nothing is paid for it: a block that streams has its multiprocessor to itself. Another rule would be another
``layout_for`` in ``csrc/policy.h``, built and held against this one by ``python -m benchmarks compare``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from gcp_kernels.commands.argument_types import device_argument, integer_from, new_file
from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.precision import PRECISIONS

from ..codegen import static
from ..codegen.gate import SHARED_LIMIT
from ..environment import environment

if TYPE_CHECKING:
    from gcp_kernels.ops.triton_device.architecture import Architecture

    from .search import Compiler, Stopwatch
    from .table import TunedTable

# In this order: what later searches compare with is then tuned already.
KERNELS = (
    "covariance", "persistent-forward", "persistent-backward", "phases", "on-chip-forward", "on-chip-backward",
    "positions-forward", "positions-backward", "thresholds",
)  # fmt: skip
MULTIPROCESSORS = 132
NO_GPU = "needs a GPU that torch can use; --dry-run --arch 90 lists the legal candidates without one"


def main(
    arguments: Sequence[str] | None = None,
    compiler: Compiler | None = None,
    clock: Stopwatch | None = None,
    arch: Architecture | None = None,
) -> int:
    """Search and print; 0 when done, 2 when it cannot be done here. Compiler, clock and GPU are real if not given."""
    args = parse(arguments)
    if compiler is None and (reason := why_not(args, clock)) is not None:
        print(f"python -m benchmarks tune {reason}", file=sys.stderr)
        return 2
    # From here on Triton is needed.
    from gcp_kernels.ops.triton_device import policy
    from gcp_kernels.ops.triton_device.architecture import Architecture, architecture

    from .gpu import AheadOfTime, Gpu
    from .space import table_name
    from .table import TunedTable

    if arch is None:
        arch = Architecture(args.arch, MULTIPROCESSORS) if args.dry_run else architecture(args.device)
    if arch.capability not in SHARED_LIMIT:
        say(f"sm_{arch.capability} is not among {', '.join(map(str, SHARED_LIMIT))}: nothing is known of its memory")
        return 2
    compiler = compiler or AheadOfTime(args.jobs)
    name = table_name(arch.capability)
    shipped = TunedTable(name, getattr(policy, name), policy.COVARIANCE)
    if args.dry_run:
        return dry_run(args, shipped, arch, compiler)
    setting = environment(args.device)
    text = ""
    for table in tuned(args, shipped, arch, compiler, clock or Gpu(args.device)):
        text = table.source(header(setting, arch, args.kernels))
        if args.output is not None:  # after each search: one that is stopped leaves what those before it have found
            write_text(args.output, text)
    print(text, end="")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tune",
        description="Search for launch configurations of the Triton kernels on this GPU; prints a table for policy.py.",
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("kernels", nargs="+", metavar="KERNEL", help=f"all, or of {', '.join(KERNELS)}")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="only these (both)")
    parser.add_argument("--only", metavar="TEXT", help='candidates that have this text, such as "warps=4, stages=3"')
    parser.add_argument("--dry-run", action="store_true", help="compile and list the candidates; needs no GPU")
    parser.add_argument("--arch", type=int, choices=sorted(SHARED_LIMIT), metavar="N", help="of --dry-run, such as 90")
    parser.add_argument("--device", type=device_argument, default=default, help="cuda or cuda:N (cuda)")
    parser.add_argument(
        "--jobs", type=integer_from(1), default=os.cpu_count() or 1, help="compilers at a time (one per CPU)"
    )
    parser.add_argument("--output", type=new_file, metavar="FILE", help="write the table to this new file too")
    args = parser.parse_args(arguments)
    for kernel in args.kernels:
        if kernel not in (*KERNELS, "all"):
            parser.error(f"there is no kernel {kernel!r}, but all, {', '.join(KERNELS)}")
    if args.arch is not None and not args.dry_run:
        parser.error("--arch is for --dry-run: a table is measured on the GPU that is here")
    if args.dry_run and args.arch is None:
        parser.error("--dry-run wants --arch N, of " + ", ".join(map(str, sorted(SHARED_LIMIT))))
    args.kernels = [kernel for kernel in KERNELS if kernel in args.kernels or "all" in args.kernels]
    return args


def why_not(args: argparse.Namespace, clock: Stopwatch | None) -> str | None:
    """Why nothing can be searched for here."""
    if not args.dry_run and clock is None and (args.device.type != "cuda" or not torch.cuda.is_available()):
        return NO_GPU
    reason = static.why_not()
    return None if reason is None else f"cannot compile kernels: {reason}"


def places(kernels: Sequence[str], precisions: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Kernel, precision and side of the matrices of every entry; on chip from the largest matrices to the smallest."""
    from .space import sizes

    for kernel in kernels:
        if kernel == "covariance":
            yield kernel, " and ".join(PRECISIONS), 0  # whatever is asked for: one tiling serves both
        elif kernel != "thresholds":
            for precision in precisions:
                for side in sizes(kernel):
                    yield kernel, precision, side


def dry_run(args: argparse.Namespace, table: TunedTable, arch: Architecture, compiler: Compiler) -> int:
    """List the candidates of every entry, and what is wrong with those that are not legal.

    The list is the same each time; what takes minutes is said apart from it.
    """
    from .search import legal_options
    from .space import compiled_for, described, entry

    for place in places(args.kernels, args.precision):
        one = entry(*place, table.choices, table.covariance)
        say(f"compiling candidates for {one.name}")
        found = legal_options(one, arch, compiler, args.only)
        archs = ", ".join(f"sm_{number}" for number in compiled_for(one.kernel, arch.capability))
        print(f"\n{one.name}, in {table.name}, compiled for {archs}; to be timed: ", end="")
        print(", ".join(described(case) for case in one.cases))
        for option in (option for option in found.legal if option not in found.rejected):
            print(f"  {option or f'no entry but {one.rival}'}{', shipped' if option == one.shipped else ''}")
        for option, problem in found.rejected.items():
            print(f"! {option}{', shipped, timed all the same' if option == one.shipped else ''}: {problem}")
        count = len({*found.legal, *found.rejected})
        print(f"{count - len(found.rejected)} of {count} are legal", flush=True)
    if "thresholds" in args.kernels:
        from .thresholds import cases

        print(f"\nthresholds: {len(list(cases(arch, args.precision)))} passes, each whole and by phase")
    return 0


def tuned(
    args: argparse.Namespace, table: TunedTable, arch: Architecture, compiler: Compiler, clock: Stopwatch
) -> Iterator[TunedTable]:
    """Give the table after each search, which begins with what those before it have found."""
    from .search import search
    from .space import entry
    from .thresholds import fitted, measured

    for place in places(args.kernels, args.precision):
        one = entry(*place, table.choices, table.covariance)
        say(one.name)
        table = table.with_found(search(one, arch, compiler, clock, args.only, say))
        yield table
    if "thresholds" in args.kernels:
        say("thresholds")
        points = list(measured(table.choices, arch, args.precision, clock, say))
        if not points:
            raise RuntimeError("thresholds: no pass is right in both forms")
        yield table.with_thresholds(*fitted(points, arch.multiprocessors, table.choices.thresholds))


def header(setting: dict[str, str | float], arch: Architecture, kernels: Sequence[str]) -> list[str]:
    """Give what a figure must be read with."""
    return [
        f"Measured by python -m benchmarks tune {' '.join(kernels)} on {setting['device']} (sm_{arch.capability}, "
        f"{arch.multiprocessors} multiprocessors), driver {setting['driver']}, CUDA {setting['cuda']}, torch "
        f"{setting['torch']}, Triton {setting['triton']}, commit {setting['commit']}. Times are medians of CUDA graphs "
        "with a cold L2 cache; ratios are medians and quartiles, side by side with what was shipped."
    ]


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)
