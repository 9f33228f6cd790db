"""Runs of the experiment of transfer as data, made up or from tables: tests of what follows need no training."""

from collections.abc import Mapping
from pathlib import Path

from experiments.transfer.experiment import COMPARED, Choice, Precision, Run
from experiments.transfer.settings import RANDOM
from tests.support.committed_runs import read


def made_run(trunk: str, seed: int, precision: Mapping[tuple[str, str], float]) -> Run:
    """Make a run of two measurements, the last with this AP by (detector, compared), AP50 20 above and AP75 10 below.

    Seeds differ by what is the same for all trunks.
    """
    return Run(
        trunk=trunk,
        seed=seed,
        classifier_rate=None if trunk == RANDOM else 0.01 if trunk == "dropcov" else 0.001,
        detector_rate=0.001,
        accuracy=None if trunk == RANDOM else 90.0 + seed,
        losses={kind: [2.0, 1.5, 1.0, 0.5] for kind in COMPARED},
        precisions=[
            Precision(kind, epoch, compared, AP=value, AP50=value + 20, AP75=value - 10)
            for kind in COMPARED
            for epoch, share in ((2, 0.5), (4, 1.0))
            for compared in COMPARED[kind]
            for value in [share * (precision[kind, compared] + seed)]
        ],
    )


PLACES = [(kind, compared) for kind in COMPARED for compared in COMPARED[kind]]


def even(trunk: str, seed: int, value: float) -> Run:
    """Make a run with the same AP of all that is compared."""
    return made_run(trunk, seed, dict.fromkeys(PLACES, value))


def read_back(folder: Path) -> tuple[list[Choice], list[Run]]:
    """Read choices and runs from the tables of a folder."""
    choices = [
        Choice(
            row["trunk"], number(row["classifier_rate"]), number(row["detector_rate"]), number(row["validation"]),
            row["diverged"],
        )
        for row in read(folder, "choices")
    ]  # fmt: skip
    runs: dict[tuple[str, int], Run] = {}
    for row in read(folder, "training"):
        key = row["trunk"], int(row["seed"])
        rates = number(row["classifier_rate"]), float(row["detector_rate"])
        empty = Run(*key, *rates, number(row["classifier_accuracy"]), {}, [])
        runs.setdefault(key, empty).losses.setdefault(row["detector"], []).append(float(row["loss"]))
    for row in read(folder, "precision"):
        kept = Precision(
            row["detector"], int(row["epoch"]), row["compared"], *(float(row[name]) for name in ("AP", "AP50", "AP75"))
        )
        runs[row["trunk"], int(row["seed"])].precisions.append(kept)
    return choices, list(runs.values())


def number(text: str) -> float | None:
    return float(text) if text else None
