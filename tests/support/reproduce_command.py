"""The reproduce command as tests call it."""

import argparse
import csv
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import reproduce

ROOT = Path(__file__).parents[2]
# What a folder has besides plots, the report and the runs themselves.
TABLES = (
    "claims.csv", "convergence.csv", "flatness.csv", "landscape.csv", "longer.csv", "rates.csv", "robustness.csv",
)  # fmt: skip
# One seed and one epoch, in this process.
QUICK = ("--check", "--seeds", "1", "--epochs", "1", "--device", "cpu", "--jobs", "1")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="reproduce")
    reproduce.add_arguments(parser)
    return parser.parse_args(arguments)


def needs_the_extra() -> None:
    for module in ("sklearn", "tqdm", "matplotlib", "mlxtend"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra: demo)")


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
