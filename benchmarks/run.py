"""``python -m benchmarks``: verify every provider, time those that are right, weigh their memory."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

import gcp_kernels
from gcp_kernels.commands.demo import device_argument

from . import cases, memory, peers, timing

CHECKOUT = memory.CHECKOUT
ROUNDS = 15
QUICK_ROUNDS = 3
PROCESSES = 3


@dataclass(frozen=True)
class Row:
    """One measurement. ``problem`` says why there is no figure; a ratio is the provider's time over ours."""

    kind: str
    case: str
    n_iter: int
    provider: str
    problem: str | None = None
    output_error: float | None = None
    gradient_error: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    peak_bytes: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every provider that is installed gave right results, 1 otherwise."""
    args = parse(arguments)
    device = args.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    setting = environment(device)
    print("\n".join(f"{name:12} {value}" for name, value in setting.items()))
    if args.quick:
        print("\n--quick: tiny shapes and no torch.compile; these figures say nothing about speed or memory")
    providers = [provider for provider in peers.PROVIDERS if not (args.quick and provider.compiles)]
    shapes = (cases.QUICK,) if args.quick else cases.SPEED
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)

    print(f"\nforward + backward, float32, {rounds} interleaved rounds; ratio: time / ours, median (quartiles)")
    rows: list[Row] = []
    for case in shapes:
        found = speed_rows(case, providers, device, rounds)
        print_speed(case, found)
        rows += found
    heavy = cases.QUICK if args.quick else cases.MEMORY
    processes = 1 if args.quick else PROCESSES
    print(f"\npeak memory of one forward + backward pass above its inputs, least of {processes} fresh processes")
    found = memory_rows(heavy, providers, device, processes)
    print_memory(heavy, found)
    rows += found
    if args.json is not None:
        write_json(args.json, rows, setting)
        print(f"\n{len(rows)} rows written to {args.json}")
    absent = {provider.name for provider in providers if provider.available() is not None}
    return 1 if any(row.problem and row.provider not in absent for row in rows) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory of the pooling on this machine."
    )
    parser.add_argument("--device", type=device_argument, default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds of timing ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, seconds: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON lines too")
    args = parser.parse_args(arguments)
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if args.json is not None:
        if args.json.is_dir():
            parser.error(f"--json {args.json}: it is a directory")
        if not args.json.absolute().parent.is_dir():
            parser.error(f"--json {args.json}: {args.json.absolute().parent} is not an existing directory")
    return args


def speed_rows(case: cases.Case, providers: Iterable[peers.Provider], device: torch.device, rounds: int) -> list[Row]:
    """Verify each provider on the case's inputs, then time those that passed, in turn."""
    inputs = cases.make_inputs(case, device)
    checked: dict[str, Row] = {}
    steps: dict[str, timing.Step] = {}
    for provider in providers:
        row, pool = verified(provider, case, inputs)
        checked[provider.name] = row
        if pool is not None:
            steps[provider.name] = partial(cases.step, pool, inputs)
    times = timing.interleaved(steps, device, rounds)
    ours = times.get(peers.OURS.name)
    rows = []
    for name, row in checked.items():
        if name in times:
            ratio = timing.ratios(times[name], ours) if ours else None
            row = replace(row, milliseconds=1e3 * timing.Spread.of(times[name]).median)
            if ratio is not None:
                row = replace(row, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)
        rows.append(row)
    return rows


def verified(provider: peers.Provider, case: cases.Case, inputs: cases.Inputs) -> tuple[Row, cases.Pool | None]:
    """The provider's row without times, and its pool if it is here and right."""
    row = Row("speed", str(case), case.n_iter, provider.name, provider.available())
    if row.problem is not None:
        return row, None
    try:
        pool = provider.build(case.n_iter)
        with warnings.catch_warnings():
            # torch.compile warns of deprecations inside torch itself.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\._inductor")
            results = cases.step(pool, inputs)
        found = cases.errors(results, inputs, case.n_iter)
    except Exception as error:  # whatever a peer raises is its result here, and must not stop the others
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        return replace(row, problem=f"failing: {type(error).__name__}: {first_line}"), None
    row = replace(row, output_error=found.output, gradient_error=found.gradient)
    if not found.acceptable:
        wrong = f"error {found.output:.1e} / {found.gradient:.1e}, limit {cases.ERROR_LIMIT:.0e}"
        return replace(row, problem=f"failing: {wrong}"), None
    return row, pool


def memory_rows(
    case: cases.Case, providers: Iterable[peers.Provider], device: torch.device, processes: int
) -> list[Row]:
    rows = []
    for provider in providers:
        row = Row("memory", str(case), case.n_iter, provider.name, provider.available())
        if row.problem is None:
            peak = memory.measure(provider, case, device, processes)
            row = replace(row, problem=peak.problem and f"failing: {peak.problem}", peak_bytes=peak.bytes)
            if peak.errors is not None:
                row = replace(row, output_error=peak.errors.output, gradient_error=peak.errors.gradient)
        rows.append(row)
    return rows


def print_speed(case: cases.Case, rows: Iterable[Row]) -> None:
    print(f"\n  {case}, n_iter = {case.n_iter}")
    print(f"    {'provider':16} {'ms':>9}   {'ratio':22} {'error out / grad':19} what it is")
    for row in rows:
        if row.problem is not None:
            print(f"    {row.provider:16} {'not timed':>9}   {row.problem}")
            continue
        ratio = "ours is not timed"
        if row.ratio is not None:
            ratio = f"x{row.ratio:.2f} ({row.ratio_low:.2f}..{row.ratio_high:.2f})"
        print(
            f"    {row.provider:16} {row.milliseconds:9.2f}   {ratio:22} "
            f"{row.output_error:.1e} / {row.gradient_error:.1e}   {peers.by_name(row.provider).summary}"
        )


def print_memory(case: cases.Case, rows: Sequence[Row]) -> None:
    print(f"\n  {case}, n_iter = {case.n_iter}")
    ours = next((row.peak_bytes for row in rows if row.provider == peers.OURS.name), None)
    for row in rows:
        if row.peak_bytes is None:
            print(f"    {row.provider:16} not measured: {row.problem}")
            continue
        ratio = f"x{row.peak_bytes / ours:.2f}" if ours else ""
        print(f"    {row.provider:16} {row.peak_bytes / 2**20:9.1f} MiB   {ratio}")


def write_json(path: Path, rows: Iterable[Row], setting: dict[str, str | int]) -> None:
    """One JSON object per row, each with the setting it was measured in."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            # JSON knows no NaN: an error that is not a number is null, and `problem` tells of it.
            fields = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in asdict(row).items()
            }
            stream.write(json.dumps({**fields, "environment": setting}, allow_nan=False) + "\n")


def environment(device: torch.device) -> dict[str, str | int]:
    """What a figure must be read with."""
    setting: dict[str, str | int] = {
        "gcp_kernels": gcp_kernels.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matmul": torch.get_float32_matmul_precision(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
    }
    if hasattr(os, "getloadavg"):
        setting["load"] = f"{os.getloadavg()[0]:.1f} (last minute, {os.cpu_count()} CPUs)"
    return setting


def cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, marked when files differ from it; "unknown" outside a git checkout."""
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
