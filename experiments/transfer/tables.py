"""The CSV files: what every run measured, and the verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_table

from ..reproduction.claims import Verdict
from .experiment import Choice, Run
from .verdicts import DECIDING

Row = Mapping[str, object]


def write_tables(
    folder: Path, choices: Sequence[Choice], runs: Sequence[Run], verdicts: Mapping[str, Sequence[Verdict]]
) -> None:
    """Write choices, precision, training and verdicts into an existing folder.

    Args:
        folder: that exists.
        choices: of the rates.
        runs: what was measured.
        verdicts: by the trunk that others are held against.

    Raises:
        NotWrittenError: a file cannot be written; those before it are complete.
    """
    tables: dict[str, list[Row]] = {
        "choices": choice_rows(choices),
        "precision": precision(runs),
        "training": training(runs),
        "verdicts": verdict_rows(verdicts),
    }
    for name, rows in tables.items():
        write_table(
            folder / f"{name}.csv",
            list(rows[0]),
            # Six digits, which is what float32 sums hold to.
            [
                {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                for row in rows
            ],
        )


def choice_rows(choices: Iterable[Choice]) -> list[Row]:
    """Tabulate what was tried to choose rates: the classifier's by digits, then the detectors' by AP of masks."""
    return [
        {"chosen": "classifier_rate" if one.detector_rate is None else "detector_rate", **asdict(one)}
        for one in choices
    ]


def precision(runs: Iterable[Run]) -> list[Row]:
    """Tabulate average precision in per cent, by trunk, seed, detector, epoch and what is compared."""
    return [{"trunk": run.trunk, "seed": run.seed, **asdict(one)} for run in runs for one in run.precisions]


def training(runs: Iterable[Run]) -> list[Row]:
    """Tabulate the rates, the classifier's accuracy in per cent, and the detectors' mean loss by epoch."""
    return [
        {
            "trunk": run.trunk,
            "seed": run.seed,
            "classifier_rate": run.classifier_rate,
            "detector_rate": run.detector_rate,
            "classifier_accuracy": run.accuracy,
            "detector": kind,
            "epoch": epoch,
            "loss": loss,
        }
        for run in runs
        for kind, losses in run.losses.items()
        for epoch, loss in enumerate(losses, start=1)
    ]


def verdict_rows(verdicts: Mapping[str, Sequence[Verdict]]) -> list[Row]:
    """Tabulate the verdicts: means and deviations over seeds, gain, margin."""
    return [
        {
            "measure": one.measure.key,
            "decides": "yes" if one.measure.key in DECIDING else "no",
            "trunk": one.pool,
            "against": baseline,
            "seeds": one.seeds,
            "against_mean": one.baseline_mean,
            "against_spread": one.baseline_spread,
            "mean": one.mean,
            "spread": one.spread,
            "gain": one.gain,
            "margin": one.margin,
            "verdict": one.outcome,
        }
        for baseline, every in verdicts.items()
        for one in every
    ]
