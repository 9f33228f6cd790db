"""The CSV files: what every run measured, and the claims."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_table

from .claims import Verdict
from .experiment import Run
from .flatness import SURFACE_STEPS

Row = Mapping[str, object]


def write_tables(folder: Path, runs: Sequence[Run]) -> None:
    """Write convergence, landscape (where walks were recorded), robustness and flatness into an existing folder."""
    tables = {
        "convergence": convergence(runs),
        "landscape": landscape(runs),
        "robustness": robustness(runs),
        "flatness": flatness(runs),
    }
    for name, rows in tables.items():
        if rows:
            write(folder / f"{name}.csv", rows)


def write_claims(folder: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the verdicts into an existing folder; no file where there are none."""
    if verdicts:
        write(folder / "claims.csv", claims(verdicts))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write one CSV file; numbers with six digits, which is what float32 sums hold to."""
    write_table(path, list(rows[0]), [{key: _text(value) for key, value in row.items()} for row in rows])


def convergence(runs: Iterable[Run]) -> list[Row]:
    """Tabulate mean training loss and test accuracy in per cent after each epoch."""
    return [
        {"pool": run.pool, "seed": run.seed, "epoch": number, "loss": epoch.loss, "accuracy": epoch.accuracy}
        for run in runs
        for number, epoch in enumerate(run.epochs, 1)
    ]


def landscape(runs: Iterable[Run]) -> list[Row]:
    """Tabulate the walks along the gradient, a row each: bands of loss and gradient distance, effective beta."""
    return [{"pool": run.pool, "seed": run.seed, **row} for run in runs for row in run.walks]


def robustness(runs: Iterable[Run]) -> list[Row]:
    """Tabulate test accuracy in per cent by corruption and strength; strength 0 of "none": the images as they are."""
    return [
        {"pool": run.pool, "seed": run.seed, "corruption": name, "strength": strength, "accuracy": accuracy}
        for run in runs
        for (name, strength), accuracy in {("none", 0): run.epochs[-1].accuracy, **run.robustness}.items()
    ]


def flatness(runs: Iterable[Run]) -> list[Row]:
    """Tabulate the largest Hessian eigenvalue with its residual, and the mean loss at every step of the lines."""
    rows: list[Row] = []
    for run in runs:
        columns = zip(SURFACE_STEPS, zip(*run.flatness.surface, strict=True), strict=True)
        rows.append(
            {
                "pool": run.pool,
                "seed": run.seed,
                "loss": run.flatness.loss,
                "eigenvalue": run.flatness.eigenvalue,
                "residual": run.flatness.residual,
                "rise": run.flatness.rise,
                **{f"loss_at_{step:g}": sum(losses) / len(losses) for step, losses in columns},
            }
        )
    return rows


def claims(verdicts: Iterable[Verdict]) -> list[Row]:
    """Tabulate the verdicts, a row for each measure and pool: means and deviations over seeds, gain, margin."""
    return [
        {
            "claim": v.measure.claim,
            "measure": v.measure.key,
            "relative": "yes" if v.measure.relative else "no",
            "pool": v.pool,
            "seeds": v.seeds,
            "average_pooling_mean": v.baseline_mean,
            "average_pooling_spread": v.baseline_spread,
            "mean": v.mean,
            "spread": v.spread,
            "gain": v.gain,
            "margin": v.margin,
            "verdict": v.outcome,
        }
        for v in verdicts
    ]


def _text(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
