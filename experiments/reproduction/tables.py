"""The CSV files: what every run measured, and the claims."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_table

from .claims import Verdict
from .figures import flat
from .flatness import SURFACE_STEPS
from .runs import CHOOSE, LONGER, MEASURE, Run, of_kind

Row = Mapping[str, object]


def write_tables(folder: Path, runs: Sequence[Run]) -> None:
    """Write rates, convergence, longer, landscape (where walks were recorded), robustness, flatness into a folder."""
    measured = of_kind(MEASURE, runs)
    tables = {
        "rates": rates([run for run in runs if run.job.kind == CHOOSE]),
        "convergence": convergence(measured),
        "longer": convergence(of_kind(LONGER, runs)),
        "landscape": landscape(measured),
        "robustness": robustness(measured),
        "flatness": flatness(measured),
    }
    for name, rows in tables.items():
        if rows:
            write(folder / f"{name}.csv", rows)


def write_claims(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    """Write the verdicts, by network, into an existing folder; no file where there are none."""
    if rows := claims(verdicts):
        write(folder / "claims.csv", rows)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write one CSV file; numbers with six digits, which is what float32 sums hold to."""
    write_table(path, list(rows[0]), [{key: _text(value) for key, value in row.items()} for row in rows])


def rates(runs: Iterable[Run]) -> list[Row]:
    """Tabulate the accuracy in per cent and the loss on validation images with every learning rate, at the end."""
    return [{**_names(run), "rate": run.job.rate, "accuracy": run.accuracy, "loss": run.loss} for run in runs]


def _names(run: Run) -> dict[str, object]:
    return {"network": run.network, "pool": run.pool, "seed": run.seed}


def convergence(runs: Iterable[Run]) -> list[Row]:
    """Tabulate mean training loss and test accuracy in per cent after each epoch."""
    return [
        {**_names(run), "epoch": number, "loss": epoch.loss, "accuracy": epoch.accuracy}
        for run in runs
        for number, epoch in enumerate(run.epochs, 1)
    ]


def landscape(runs: Iterable[Run]) -> list[Row]:
    """Tabulate the walks along the gradient, a row each: bands of loss and gradient distance, effective beta."""
    return [{**_names(run), **row} for run in runs for row in run.walks]


def robustness(runs: Iterable[Run]) -> list[Row]:
    """Tabulate test accuracy in per cent by corruption and strength; strength 0 of "none": the images as they are."""
    return [
        {**_names(run), "corruption": name, "strength": strength, "accuracy": accuracy}
        for run in runs
        for (name, strength), accuracy in {("none", 0): run.accuracy, **run.robustness}.items()
    ]


def flatness(runs: Iterable[Run]) -> list[Row]:
    """Tabulate the largest Hessian eigenvalue with its residual, and the mean loss at every step of the lines."""
    rows: list[Row] = []
    for run in runs:
        columns = zip(SURFACE_STEPS, zip(*flat(run).surface, strict=True), strict=True)
        rows.append(
            {
                **_names(run),
                "loss": flat(run).loss,
                "eigenvalue": flat(run).eigenvalue,
                "residual": flat(run).residual,
                "rise": flat(run).rise,
                **{f"loss_at_{step:g}": sum(losses) / len(losses) for step, losses in columns},
            }
        )
    return rows


def claims(verdicts: Mapping[str, Sequence[Verdict]]) -> list[Row]:
    """Tabulate the verdicts, a row for each network, measure and pool: means and deviations, gain, margin."""
    return [
        {
            "network": network,
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
        for network, of_network in verdicts.items()
        for v in of_network
    ]


def _text(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
