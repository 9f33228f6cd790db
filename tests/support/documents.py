"""Read README, docs and committed results; and hold a figure that is shown against the value that it is of."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# The runs that are committed: on a CPU; on an H100 first contact and passes, passes again, and training steps.
CPU, FIRST, PASSES, STEP = "cpu-epyc-1-thread", "h100-2026-11-27", "h100-2026-11-27-second", "h100-2026-11-27-network"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def flowing(page):
    """Give a page without its line breaks, so that a sentence can be looked for."""
    return " ".join(text_of(page).split())


def table(page, first):
    """Find the only table of a page whose first heading is ``first``: a dictionary by heading for each row."""
    (found,) = re.findall(rf"^(\| {re.escape(first)} \|.*(?:\n\|.*)+)", text_of(page), re.MULTILINE)
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def assert_shown(figure, value):
    """Assert that a figure is the value, rounded to the digits that are shown."""
    assert f"{float(value):.{len(figure.partition('.')[2])}f}" == figure, f"{figure} is shown for {value}"


def log_of(run, name):
    return (RESULTS / run / name).read_text(encoding="utf-8")


def only(pattern, text):
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return found
