"""``python -m benchmarks compare A B``: what became slower, larger or wrong from run A to run B, beyond the spread."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .rows import Row, Run, read

# Of the median, in per cent. Quartiles that do not overlap can still lie this near on a machine with other work.
MARGIN = 5.0
# The resident set of a process is counted in pages, and is behind by some of them for each thread.
NOISE_BYTES = 2**20
# A run in another environment measures the environment.
SAME = ("device", "threads")


@dataclass(frozen=True)
class Change:
    """One figure of one measurement in both runs."""

    row: Row
    what: str
    before: float
    after: float
    worse: bool
    unit: str

    def __str__(self) -> str:
        ratio = self.after / self.before if self.before else float("inf")
        return (
            f"{self.row.provider:22} {self.row.label:44} {self.what:12} "
            f"{self.before:.4g} -> {self.after:.4g} {self.unit} (x{ratio:.2f})"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the changes; 0 when nothing is worse, 1 when something is, 2 when the runs cannot be compared."""
    args = parse(arguments)
    try:
        before, after = read(args.before), read(args.after)
    except ValueError as error:
        print(f"python -m benchmarks compare: {error}", file=sys.stderr)
        return 2
    if (difference := different(before, after)) and not args.anyway:
        print(f"python -m benchmarks compare: {difference}; --anyway compares all the same", file=sys.stderr)
        return 2
    for name, run in (("before", before), ("after", after)):
        setting = run.environment
        print(f"{name:7} {setting['commit']} on {setting['device']}, torch {setting['torch']}, {len(run.rows)} rows")
    pairs = paired(before, after)
    found = [change for pair in pairs for change in changes(*pair, args.margin)]
    lost = [(old, new) for old, new in pairs if old.problem is None and new.problem is not None]
    for title, worse in (("better", False), ("WORSE", True)):
        listed = [change for change in found if change.worse is worse]
        print(f"\n{title}: {len(listed)}")
        print("\n".join(f"  {change}" for change in listed), end="\n" if listed else "")
    if lost:
        print(f"\nNO FIGURE ANY MORE: {len(lost)}")
        print("\n".join(f"  {new.provider:22} {new.label:44} {new.problem}" for _, new in lost))
    only = [len(run.rows) - len(pairs) for run in (before, after)]
    print(f"\n{len(pairs)} measurements in both runs, {only[0]} only before, {only[1]} only after")
    if not pairs:
        print("python -m benchmarks compare: the runs have no measurement in common", file=sys.stderr)
        return 2
    return 1 if lost or any(change.worse for change in found) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare", description="What became slower, larger or wrong between two runs."
    )
    parser.add_argument("before", type=Path, metavar="A", help="folder of the earlier run, or its file of JSON lines")
    parser.add_argument("after", type=Path, metavar="B", help="folder of the later run, or its file of JSON lines")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, metavar="PERCENT", help=f"smaller changes are no changes ({MARGIN:g})"
    )
    parser.add_argument("--anyway", action="store_true", help="compare runs of different machines too")
    args = parser.parse_args(arguments)
    if not args.margin >= 0:
        parser.error(f"--margin must be at least 0, got {args.margin:g}")
    return args


def different(before: Run, after: Run) -> str | None:
    """What of the machines differs."""
    for name in SAME:
        old, new = before.environment[name], after.environment[name]
        if old != new:
            return f"the runs differ in {name}: {old!r} and {new!r}"
    return None


def paired(before: Run, after: Run) -> list[tuple[Row, Row]]:
    """The same measurement in both runs."""
    later = {row.key: row for row in after.rows}
    return [(row, later[row.key]) for row in before.rows if row.key in later]


def changes(before: Row, after: Row, margin: float) -> Iterator[Change]:
    """Times whose quartiles do not overlap and memory, where they differ by more than the margin."""
    factor = 1 + margin / 100
    if before.milliseconds and after.milliseconds:
        old, new = before.milliseconds, after.milliseconds
        slower = (after.low or new) > (before.high or old) and new > factor * old
        faster = (after.high or new) < (before.low or old) and old > factor * new
        if slower or faster:
            yield Change(after, "time", old, new, slower, "ms")
    for what, unit in (("peak_bytes", "MiB peak"), ("saved_bytes", "MiB kept")):
        old_bytes, new_bytes = getattr(before, what), getattr(after, what)
        if old_bytes is None or new_bytes is None:
            continue
        noise = NOISE_BYTES if before.kind == "memory" else 0
        if max(old_bytes, new_bytes) > factor * min(old_bytes, new_bytes) + noise:
            yield Change(after, "memory", old_bytes / 2**20, new_bytes / 2**20, new_bytes > old_bytes, unit)
