"""``python -m benchmarks compare A B``: what became slower, larger or wrong from run A to run B, beyond the spread.

Our time is divided by that of each peer in the same run, which other work on the machine slows as much. A peer is a
yardstick and is not judged. Without a peer, as in a run of ours alone, a time says nothing where there is other work:
it is counted as not judged, or compared as it is with ``--absolute``. Memory does not depend on other work, so that of
every provider is compared as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..rows import NOT_BEGUN, Row, Run, read
from ..timing import Spread

# Of the median, in per cent. Quartiles that do not overlap can still lie this near on a machine with other work.
MARGIN = 5.0
# Quartiles of fewer rounds say little of the spread: two times three rounds of one program can be apart.
LEAST_ROUNDS = 5
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


@dataclass(frozen=True)
class Pair:
    """The same measurement in both runs, and those of its peers that are in both."""

    before: Row
    after: Row
    peers: Sequence[tuple[Row, Row]]


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
    times = absolutely if args.absolute else slower
    found = [change for pair in pairs for change in (*times(pair, args.margin), *larger(pair, args.margin))]
    lost = [pair for pair in pairs if pair.before.problem is None and pair.after.problem is not None]
    for title, worse in (("better", False), ("WORSE", True)):
        listed = [change for change in found if change.worse is worse]
        print(f"\n{title}: {len(listed)}")
        print("\n".join(f"  {change}" for change in listed), end="\n" if listed else "")
    if lost:
        print(f"\nNO FIGURE ANY MORE: {len(lost)}")
        print("\n".join(f"  {pair.after.provider:22} {pair.after.label:44} {pair.after.problem}" for pair in lost))
    only = [sum(map(begun, run.rows)) - len(pairs) for run in (before, after)]
    print(f"\n{len(pairs)} measurements in both runs, {only[0]} only before, {only[1]} only after")
    if not args.absolute:
        for reason, count in without_verdict(pairs).items():
            print(f"{count} times of ours are not judged: {reason}")
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
    parser.add_argument(
        "--absolute", action="store_true", help="compare milliseconds, of every provider: where there is no other work"
    )
    parser.add_argument("--anyway", action="store_true", help="compare runs of different machines too")
    args = parser.parse_args(arguments)
    if not args.margin >= 0:
        parser.error(f"--margin must be at least 0, got {args.margin:g}")
    return args


def different(before: Run, after: Run) -> str | None:
    """Say in what the machines of two runs differ."""
    for name in SAME:
        old, new = before.environment[name], after.environment[name]
        if old != new:
            return f"the runs differ in {name}: {old!r} and {new!r}"
    return None


def paired(before: Run, after: Run) -> list[Pair]:
    """Pair the measurements that both runs have, each with the peers that were timed beside it in both."""
    earlier, later = ({row.key: row for row in run.rows if begun(row)} for run in (before, after))
    both = [(row, later[key]) for key, row in earlier.items() if key in later]
    peers: dict[tuple[str, ...], list[tuple[Row, Row]]] = {}
    for old, new in both:
        # Average pooling is over before other work has slowed it.
        if not is_ours(old) and old.truth != "mean" and timed(old, new):
            peers.setdefault(measurement(old), []).append((old, new))
    return [Pair(old, new, peers.get(measurement(old), ())) for old, new in both]


def begun(row: Row) -> bool:
    """Say whether the run had time for it: on a machine with other work it has time for less."""
    return row.problem is None or not row.problem.startswith(NOT_BEGUN)


def measurement(row: Row) -> tuple[str, ...]:
    """Give the fields that are equal for all rows that were timed side by side."""
    return row.kind, row.group, row.label


def is_ours(row: Row) -> bool:
    return row.provider.startswith("gcp_kernels")


def timed(before: Row, after: Row) -> bool:
    return all(row.milliseconds and row.low and row.high for row in (before, after))


def beside(row: Row, peer: Row) -> Spread:
    """Divide the time of a row by that of a peer, by way of the baseline, our first provider, that both have ratios to.

    Rows without a baseline have only their times, whose spread is larger.
    """
    if row.ratio is None or peer.ratio is None:
        return Spread(row.milliseconds / peer.milliseconds, row.low / peer.high, row.high / peer.low)
    return Spread(row.ratio / peer.ratio, row.ratio_low / peer.ratio_high, row.ratio_high / peer.ratio_low)


def rounds(*pairs: tuple[Row, Row]) -> int:
    """Find the fewest rounds of all rows; a row that does not say has enough."""
    return min(LEAST_ROUNDS if row.rounds is None else row.rounds for pair in pairs for row in pair)


def yardsticks(pair: Pair) -> list[tuple[Row, Row]]:
    """Choose the peers that have enough rounds beside ours in both runs."""
    if not is_ours(pair.before) or not timed(pair.before, pair.after):
        return []
    return [peer for peer in pair.peers if rounds((pair.before, pair.after), peer) >= LEAST_ROUNDS]


def slower(pair: Pair, margin: float) -> Iterator[Change]:
    """Yield our time over that of the peers, where most of them say that it changed in the same direction.

    The ratio to a peer has changed if the quartiles of the two runs do not overlap and the medians differ by more than
    the margin. The ratio to the median peer is shown.
    """
    factor = 1 + margin / 100
    compared = [(new.provider, beside(pair.before, old), beside(pair.after, new)) for old, new in yardsticks(pair)]
    for worse in (True, False):
        agreeing = []
        for name, old, new in compared:
            small, large = (old, new) if worse else (new, old)
            if large.low > small.high and large.median > factor * small.median:
                agreeing.append((new.median / old.median, name, old, new))
        if 2 * len(agreeing) > len(compared):
            _, name, old, new = sorted(agreeing, key=lambda one: one[0])[len(agreeing) // 2]
            unit = f"of {name}, so {len(agreeing)} of {len(compared)} peers"
            yield Change(pair.after, "time", old.median, new.median, worse, unit)


def absolutely(pair: Pair, margin: float) -> Iterator[Change]:
    """Yield the milliseconds if the quartiles do not overlap and the medians differ by more than the margin."""
    before, after, factor = pair.before, pair.after, 1 + margin / 100
    if not timed(before, after):
        return
    old, new = (Spread(row.milliseconds, row.low, row.high) for row in (before, after))
    small, large = (old, new) if new.median > old.median else (new, old)
    if large.low > small.high and large.median > factor * small.median:
        yield Change(after, "time", old.median, new.median, large is new, "ms")


def larger(pair: Pair, margin: float) -> Iterator[Change]:
    """Yield the memory if it differs by more than the margin."""
    for what, unit in (("peak_bytes", "MiB peak"), ("saved_bytes", "MiB kept")):
        old, new = getattr(pair.before, what), getattr(pair.after, what)
        if old is None or new is None:
            continue
        noise = NOISE_BYTES if pair.before.kind == "memory" else 0
        if max(old, new) > (1 + margin / 100) * min(old, new) + noise:
            yield Change(pair.after, "memory", old / 2**20, new / 2**20, new > old, unit)


def without_verdict(pairs: Sequence[Pair]) -> dict[str, int]:
    """Count the times of ours that are not judged, by reason."""
    found: dict[str, int] = {}
    for pair in pairs:
        if not is_ours(pair.before) or not timed(pair.before, pair.after) or yardsticks(pair):
            continue
        reason = f"they or their peers have fewer than {LEAST_ROUNDS} rounds"
        if not pair.peers:
            reason = "no peer was timed beside them in both runs; --absolute compares milliseconds"
        found[reason] = found.get(reason, 0) + 1
    return found
