"""``python -m benchmarks run``: verify every provider, time those that are right, weigh their memory."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gcp_kernels.commands.argument_types import device_argument, integer_from, new_folder
from gcp_kernels.commands.atomic_files import write_text

from ..environment import commit, environment
from ..peers.providers import by_name
from ..rows import CSV_NAME, JSON_NAME, NOT_BEGUN, Row, Writer
from ..timing import Budget
from . import memory, table
from .measure import failed, is_ours, time_case
from .roofline import Ceilings, measure_ceilings
from .sets import SETS, Plan, named_set, selected

__all__ = ["commit", "main"]

TABLE_NAME = "table.txt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when our backends gave right results wherever they could run, 1 otherwise, 2 for nothing."""
    args = parse(arguments)
    device = args.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    plan = planned(args)
    if not plan.items and not plan.peaks:
        nothing = "the set has no case that --case, --group and --provider ask for"
        print(f"python -m benchmarks run: nothing to measure: {nothing}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    ceilings = measure_ceilings(device)
    setting = {**environment(device), **ceilings.as_dict()}
    report = Report(args.output)
    report(table.head({**setting, "set": args.set}))
    if args.set == "small":
        report("\nthe small set shows whether everything works; its figures say nothing about speed or memory")
    report(
        "\n" + table.legend([name for name in table.SUMMARIES if any(name in item.providers for item in plan.items)])
    )
    writer = Writer(args.output, setting) if args.output else None
    rows: list[Row] = []
    for found in measured(plan, device, ceilings, args.budget):
        report(table.case_lines(found))
        rows += found
        if writer is not None:
            writer.write(found)
    report(f"\n{len(rows)} rows in {time.perf_counter() - started:.0f} s")
    if writer is not None:
        writer.finish()
        print(f"written to {args.output}: {JSON_NAME}, {CSV_NAME}, {TABLE_NAME}")
    wrong = [row for row in rows if failed(row) and is_ours(row.provider)]
    for row in wrong:
        report(f"OURS IS WRONG: {row.provider} on {row.label}: {row.problem}")
    return 1 if wrong else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description="Speed and memory of the pooling on this machine."
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--set", choices=SETS, default="standard", help="how much is measured (standard)")
    parser.add_argument("--device", type=device_argument, default=default, help="cpu, cuda or cuda:N (cuda if any)")
    parser.add_argument(
        "--output", type=new_folder, metavar="DIR", help="new folder for rows as JSON lines and CSV, and the table"
    )
    parser.add_argument("--threads", type=integer_from(1), help="threads of a CPU (as many as torch takes)")
    parser.add_argument("--rounds", type=integer_from(1), help="interleaved rounds of timing")
    parser.add_argument("--budget", type=integer_from(1), metavar="SECONDS", help="leave out what is not begun by then")
    parser.add_argument("--case", metavar="TEXT", help='cases whose label has this text, such as "256x14x14" or "both"')
    parser.add_argument("--group", action="append", metavar="NAME", help="only cases of this group; may be repeated")
    parser.add_argument("--provider", action="append", metavar="TEXT", help="only providers with this in their name")
    parser.add_argument("--list", action="store_true", help="print what would be measured, and end")
    args = parser.parse_args(arguments)
    if args.list:
        plan = planned(args)
        for item in plan.items:
            print(f"{item.group:11} {item.case.label:46} {', '.join(item.providers)}")
        for case in plan.peaks:
            print(f"{'peak memory':11} {case.label}")
        parser.exit()
    if args.output is not None:
        try:
            args.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output {args.output}: {error.strerror}")
    return args


def planned(args: argparse.Namespace) -> Plan:
    """Reduce the set to what the options select. Peaks are the group "memory"."""
    plan = named_set(args.set, args.device.type)
    names = tuple(
        name for name in plan.peak_providers if not args.provider or any(one in name for one in args.provider)
    )
    wanted = names and (not args.group or "memory" in args.group)
    return replace(
        plan,
        items=selected(plan.items, args.case, args.group, args.provider),
        peaks=tuple(case for case in plan.peaks if wanted and (args.case or "") in f"memory {case.label}"),
        rounds=args.rounds or plan.rounds,
        peak_providers=names,
    )


def measured(plan: Plan, device: torch.device, ceilings: Ceilings, limit: int | None) -> Iterator[list[Row]]:
    """Yield rows, case by case; after ``limit`` seconds, only rows that say that a case was left out."""
    ends = time.perf_counter() + (limit or float("inf"))
    budget = Budget.on(device, plan.rounds, plan.turn_seconds, plan.provider_seconds)
    for item in plan.items:
        providers = [by_name(name) for name in item.providers]
        if time.perf_counter() > ends:
            problem = f"{NOT_BEGUN} the {limit} s of --budget"
            yield [Row.of("time", item.group, item.case, one.name, one.truth, problem=problem) for one in providers]
            continue
        yield time_case(item.group, item.case, providers, device, budget, ceilings)
    for case in plan.peaks:
        yield memory.peak_rows(case, [by_name(name) for name in plan.peak_providers], device, plan.processes)


class Report:
    """Prints, and writes the same to the table of the output folder."""

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / TABLE_NAME
        self._text = ""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, text: str) -> None:
        print(text, flush=True)
        if self._file is not None:
            self._text += text + "\n"
            write_text(self._file, self._text)
