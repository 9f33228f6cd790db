"""The CSV files: what every run measured, and the verdicts."""

from collections.abc import Sequence
from pathlib import Path

from ..reproduction import tables
from ..reproduction.claims import Verdict
from ..reproduction.runs import CHOOSE, MEASURE, Run, of_kind
from .comparison import outcome


def write_tables(folder: Path, runs: Sequence[Run], every: Sequence[Verdict]) -> None:
    """Write rates, convergence, landscape (where walks were recorded), flatness, roots and verdicts into a folder."""
    measured = of_kind(MEASURE, runs)
    rows: dict[str, Sequence[tables.Row]] = {
        "rates": tables.rates([run for run in runs if run.job.kind == CHOOSE]),
        "convergence": tables.convergence(measured),
        "landscape": tables.landscape(measured),
        "flatness": tables.flatness(measured),
        "roots": [{"root": run.pool, "seed": run.seed, "rate": run.job.rate, **run.others} for run in measured],
        "verdicts": verdict_rows(every),
    }
    for name, of_table in rows.items():
        if of_table:
            tables.write(folder / f"{name}.csv", of_table)


def verdict_rows(every: Sequence[Verdict]) -> list[tables.Row]:
    """Tabulate the verdicts, a row for each measure and root: means and deviations over seeds, gain, margin."""
    return [
        {
            "measure": v.measure.key,
            "root": v.pool,
            "seeds": v.seeds,
            "published_mean": v.baseline_mean,
            "published_spread": v.baseline_spread,
            "mean": v.mean,
            "spread": v.spread,
            "gain": v.gain,
            "margin": v.margin,
            "outcome": outcome(v),
        }
        for v in every
    ]
