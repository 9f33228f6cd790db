"""``python -m benchmarks predict``: the time of the CUDA kernels as a model of a GPU has it, without one.

It reads the machine code of the built extension, walks through it as a CTA would, counts what that issues,
and weighs it with rates that are documented or, where nobody has measured them, assumed (``--rates`` names them all).
Nothing of that is measured; rows of a run on a GPU can stand beside it (``--measured``), those of
``benchmarks/results/h100-2026-11-27-second`` for instance, where kernels took 1.1 to 2.1 times as long.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcp_kernels.commands.argument_types import new_file
from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.ops.cuda_device.side import side_of
from gcp_kernels.ops.sides import POSITIONS
from gcp_kernels.precision import PRECISIONS

from .. import rows
from ..cases import Case
from .cost_model import launch as predict_launch
from .cost_model import profile as predict_profile
from .cost_model.code import CudaKernel, read
from .cost_model.launch import ELEMENTS, launches
from .cost_model.memory import PARTIAL_SECTOR
from .cost_model.model import Prediction, predict
from .cost_model.phases import KINDS, PHASES
from .cost_model.pipeline import Unit
from .cost_model.profile import Profile, described
from .cost_model.rates import ASSUMED, RATES, Rates
from .cost_model.registers import NotUnderstood
from .static_extension import binary, why_not

DEFAULT = ("256x256x14x14", "256x256x7x7", "256x128x14x14", "256x64x14x14")
PROVIDER = "gcp_kernels[cuda]"
# Machine code of a kernel that a cache for instructions should hold.
MOST_CODE_BYTES = 64 << 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Print predictions; 0, or 2 when there is nothing to read or machine code that is not understood."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks predict", description=__doc__)
    parser.add_argument("cases", nargs="*", default=DEFAULT, metavar="BxCxHxW", help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--arch", type=int, choices=sorted(RATES), default=90, help="of the GPU (default: 90)")
    parser.add_argument("--n-iter", type=int, default=5, help="Newton-Schulz iterations (default: 5)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fast")
    parser.add_argument("--dtype", choices=ELEMENTS, default="float16")
    parser.add_argument("--measured", type=Path, metavar="RUN", help="folder or file of a run on such a GPU")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="what ncu --page source --csv printed of these kernels on one",
    )
    parser.add_argument("--rates", action="store_true", help="print the rates of the architecture, and where from")
    parser.add_argument("--code", action="store_true", help="print how much machine code each kernel has")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="new file for the predictions as JSON lines")
    args = parser.parse_args(arguments)
    if args.rates:
        print_rates(args.arch, RATES[args.arch])
        return 0
    if (reason := why_not() or predict_launch.why_not()) is not None:
        print(f"python -m benchmarks predict has nothing to read: {reason}", file=sys.stderr)
        return 2
    try:
        options = {"n_iter": args.n_iter, "precision": args.precision, "dtype": args.dtype}
        cases = [replace(Case.parse(text), **options) for text in args.cases]
        measured = rows.read(args.measured).rows if args.measured else []
        profiles = predict_profile.read(args.profile) if args.profile else []
        kernels = read(binary(), args.arch)
        if args.code:
            print_code(kernels)
            return 0
        print_head(args.arch, RATES[args.arch])
        written = [values for case in cases for values in printed(case, args.arch, kernels, measured, profiles)]
    except (NotUnderstood, ValueError) as error:
        print(f"python -m benchmarks predict: {error}", file=sys.stderr)
        return 2
    if args.json is not None:
        write_text(args.json, "".join(json.dumps(values) + "\n" for values in written))
    return 0


def print_head(arch: int, rates: Rates) -> None:
    assumed = [name for name, rate in rates.named().items() if ASSUMED in rate.source]
    print(f"predicted for sm_{arch} ({rates.gpu}), not measured, from machine code and rates; of these are assumed:")
    print(f"{', '.join(assumed)} (--rates prints all)")


def print_code(kernels: Sequence[CudaKernel]) -> None:
    print("bytes of machine code; ! above 64 KB")
    for kernel in kernels:
        size = kernel.code_bytes
        print(f"{size:9} {kernel.name} {kernel.variant}{' !' if size > MOST_CODE_BYTES else ''}")


def print_rates(arch: int, rates: Rates) -> None:
    print(f"sm_{arch}: {rates.gpu}; times in cycles")
    for name, rate in rates.named().items():
        print(f"  {name:20} {rate.value:12.6g}  {rate.source}")
    print(
        f"  {'partial_sector':20} {PARTIAL_SECTOR:12}  sectors for one that a store writes in part: fitted on an H100"
    )


def printed(
    case: Case, arch: int, kernels: Sequence[CudaKernel], measured: Sequence[rows.Row], profiles: Sequence[Profile]
) -> Iterator[dict[str, Any]]:
    """Print the passes of a case, each as it is found, and give what JSON lines hold of it.

    A measured time stands on the side that the package takes: rows do not say which one they are of. Nor does a profile
    say of which case it is.
    """
    print(f"\n{case} N={case.n_iter} {case.dtype} {case.precision}")
    for launch in launches(case, arch):
        kernel = next(one for one in kernels if (one.name, one.variant) == (launch.kernel, launch.variant))
        found = predict(case, launch, kernel, RATES[arch])
        chosen = ("positions" in launch.kernel) == (side_of(case.channels, case.positions) == POSITIONS)
        time = measured_microseconds(case, launch.kernel, measured) if chosen else None
        beside = "" if time is None else f"   measured {time:8.1f} us"
        print(
            f"\n  {launch.kernel} {launch.variant}: {launch.threads // 32} warps, {found.resident} CTAs a "
            f"multiprocessor\n    predicted {found.microseconds:8.1f} us   floor of the tensor cores "
            f"{found.floor:8.1f} us   of DRAM {found.memory:6.1f} us{beside}"
        )
        print_phases(found)
        for profile in profiles:
            if (profile.name, profile.variant) == (kernel.name, kernel.variant):
                print_profile(found, profile)
        yield as_dict(case, arch, found, time)


def print_phases(found: Prediction) -> None:
    print(f"    {'cycles':>9} {'':5}", *(f"{kind:>8}" for kind in KINDS), "  instructions of a sample")
    for name, phase in found.phases.items():
        if phase.cycles:
            share = f"{100 * phase.cycles / found.timing.cycles:4.0f} %"
            print(
                f"    {phase.cycles:9.0f}{share}", *(f"{phase.counts[kind]:8}" for kind in KINDS), f"  {PHASES[name]}"
            )
    for counts, what in ((found.step(), "a step of k in a product"), (found.epilogue(), "a block of an epilogue")):
        print(f"    {'':15}", *(f"{counts[kind]:8.1f}" for kind in KINDS), f"  {what}")
    units = {"tensor cores": Unit.TENSOR, "shared memory": Unit.SHARED, "integers": Unit.INTEGER, "L2": Unit.GLOBAL}
    busy = ", ".join(f"{name} {100 * found.busy(unit):.0f} %" for name, unit in units.items())
    slots = 100 * found.timing.issued / 4 / found.timing.cycles
    print(
        f"    busy: {busy}, issue slots {slots:.0f} %\n    products of blocks {found.executed}, useful "
        f"{found.useful.products}; machine code {found.kernel.code_bytes >> 10} KB, of which "
        f"{found.passed_bytes >> 10} KB are passed"
    )


def print_profile(found: Prediction, profile: Profile) -> None:
    samples = profile.of_phases(found.kernel, found.walked)
    print("    of the cycles predicted, and of the samples of warps in the profile (what these waited for):")
    # Of one CTA, which may end before others on its multiprocessor.
    cycles = sum(phase.cycles for phase in found.phases.values())
    for name, phase in found.phases.items():
        share = f"{100 * phase.cycles / cycles:3.0f} %"
        print(f"    {share}  {described(samples, name)}  {PHASES[name]}")


def measured_microseconds(case: Case, kernel: str, measured: Sequence[rows.Row]) -> float | None:
    """Find the time of the CUDA backend on the same case, in the direction that a kernel is of."""
    directions = ("backward",) if "backward" in kernel else ("inference", "forward")
    wanted = (case.batch, case.channels, case.positions, case.n_iter, case.dtype, case.precision)
    for row in measured:
        shape = (row.batch, row.channels, row.positions, row.n_iter, row.dtype, row.precision)
        if row.kind == "time" and row.provider == PROVIDER and shape == wanted and row.direction in directions:
            return None if row.milliseconds is None else 1e3 * row.milliseconds
    return None


def as_dict(case: Case, arch: int, found: Prediction, measured: float | None) -> dict[str, Any]:
    return {
        "arch": arch,
        "case": case.label.rpartition(" ")[0],
        "kernel": found.launch.kernel,
        "variant": found.launch.variant,
        "code_bytes": found.kernel.code_bytes,
        "resident": found.resident,
        "predicted_us": found.microseconds,
        "floor_us": found.floor,
        "memory_us": found.memory,
        "measured_us": measured,
        "executed": found.executed,
        "useful": found.useful.products,
        "phases": {name: vars(phase) for name, phase in found.phases.items()},
        "step": found.step(),
        "epilogue": found.epilogue(),
    }
