"""Runs the tests of a planted fault and judges what they say."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkout import Checkout
from .fault import Fault, PlantingError

PLUGIN = Path(__file__).with_name("plugin")
MOST_SECONDS = 600
CAUGHT = "caught"


@dataclass(frozen=True)
class Verdict:
    """What became of a fault: "caught", by ``test``, or why it does not count as caught."""

    fault: Fault
    verdict: str
    test: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """Of one run of pytest: how many tests passed, and the first that failed."""

    passed: int
    failed: str | None


def judge(fault: Fault, checkout: Checkout, markers: str) -> Verdict:
    """Plant a fault in a copy of a checkout and run its tests up to the first that fails.

    A test that fails without the fault as well has caught nothing. It is left out, and the others go on.
    """
    started = time.perf_counter()

    def verdict(text: str, test: str = "") -> Verdict:
        return Verdict(fault, text, test, time.perf_counter() - started)

    failing: list[str] = []
    try:
        tests = checkout.tests(fault)
        select = ["-k", fault.select] if fault.select else []
        while True:
            left_out = [f"--deselect={test}" for test in failing]
            with checkout.planted(fault):
                outcome = run(checkout, [*tests, "-m", markers, *select, *left_out])
            if outcome.failed is None:
                return verdict("SURVIVED" if outcome.passed else "NO TEST RAN")
            alone = run(checkout, [outcome.failed])
            if alone.failed is None and (alone.passed or "::" not in outcome.failed):
                return verdict(CAUGHT, outcome.failed)
            if "::" not in outcome.failed or outcome.failed in failing:
                return verdict("FAILS WITHOUT IT", outcome.failed)
            failing.append(outcome.failed)
    except PlantingError as error:
        return verdict(f"ERROR: {error}")


def run(checkout: Checkout, arguments: Sequence[str]) -> Outcome:
    """Run pytest in a copy of a checkout, up to the first failure."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "outcome.json")
        # A module that is planted and restored within a second would be taken from the cache of the other.
        added = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(PLUGIN), "RECORD_OUTCOME": str(record)}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "record_outcome"]
        # With what its tests have started it can be ended as a whole.
        with subprocess.Popen(
            [*command, *arguments],
            cwd=checkout.root,
            env={**os.environ, **added},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=MOST_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise PlantingError(f"the tests took more than {MOST_SECONDS} s") from None
        if not record.is_file():
            last = printed.strip().splitlines()[-1:]
            raise PlantingError(f"pytest ended with {process.returncode} and no outcome: {' '.join(last)}")
        return Outcome(**json.loads(record.read_text(encoding="utf-8")))
