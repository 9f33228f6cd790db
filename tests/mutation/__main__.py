"""``python -m tests.mutation``: which planted faults the tests catch."""

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

from .checkout import Checkout
from .fault import LAYERS, Fault, PlantingError
from .faults import FAULTS
from .verdict import CAUGHT, Verdict, judge

HERE = Path(__file__).resolve().parents[2]
# What `make test` runs.
QUICK = "not slow and not thorough and not mutation"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant the faults; 0 when all are caught, 1 when one is not, 2 when nothing could be planted."""
    args = parse(arguments)
    faults = [fault for fault in FAULTS if args.layer in (None, fault.layer)]
    if args.only:
        faults = [fault for fault in faults if any(part in fault.name for part in args.only)]
    if not faults:
        print("python -m tests.mutation: no fault of the list has such a name and layer", file=sys.stderr)
        return 2
    if args.list:
        print("\n".join(f"{fault.layer:12} {fault.name}" for fault in faults))
        return 0
    try:
        verdicts = judge_all(faults, Checkout(args.checkout.resolve()), args.markers, args.jobs)
    except PlantingError as error:
        print(f"python -m tests.mutation: {error}", file=sys.stderr)
        return 2
    caught = sum(one.verdict == CAUGHT for one in verdicts)
    summary = f"{caught} of {len(verdicts)} faults caught"
    print(summary)
    if args.output is not None:
        text = "\n".join([*head(args), "", *map(line, verdicts), "", summary, ""])
        args.output.write_text(text, encoding="utf-8")
    return 0 if caught == len(verdicts) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Plants faults in a copy of a checkout, and runs their tests."
    )
    parser.add_argument("--list", action="store_true", help="only print the faults")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults with one of these texts in their name")
    parser.add_argument("--layer", choices=LAYERS, help="faults of this layer")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="faults at a time (2)")
    parser.add_argument(
        "-m", dest="markers", default=QUICK, metavar="MARKEXPR", help=f"which tests, as for pytest ({QUICK!r})"
    )
    parser.add_argument("--checkout", type=Path, default=HERE, metavar="DIR", help="plant there instead of here")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there")
    args = parser.parse_args(arguments)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    return args


def judge_all(faults: Sequence[Fault], checkout: Checkout, markers: str, jobs: int) -> list[Verdict]:
    """Judge the faults, each job in a copy of its own, and print every verdict when it is there."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copies: SimpleQueue[Checkout] = SimpleQueue()
        for job in range(min(jobs, len(faults))):
            copies.put(checkout.copy_to(Path(folder, str(job))))

        def judge_one(fault: Fault) -> Verdict:
            copy = copies.get()
            try:
                verdict = judge(fault, copy, markers)
            finally:
                copies.put(copy)
            print(line(verdict), flush=True)
            return verdict

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(judge_one, faults))


def line(one: Verdict) -> str:
    """Write one verdict as a row of the table."""
    return f"{one.fault.layer:12} {one.fault.name:64} {one.verdict:9} {one.seconds:6.1f} s  {one.test}".rstrip()


def head(args: argparse.Namespace) -> list[str]:
    """Say what was measured: commit, date, versions, tests."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    commit = subprocess.run(command, cwd=args.checkout, capture_output=True, text=True, check=False).stdout.strip()
    return [
        f"commit   {commit}",
        f"date     {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"versions Python {platform.python_version()}, torch {version('torch')}, pytest {version('pytest')}",
        f"tests    -m {args.markers!r}",
    ]


if __name__ == "__main__":
    sys.exit(main())
