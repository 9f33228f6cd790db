"""The runs behind a committed report, read from its tables, whose numbers have six digits."""

import csv
from collections import defaultdict

from experiments.reproduction.choice import chosen_rates
from experiments.reproduction.flatness import SURFACE_STEPS, Flatness
from experiments.reproduction.runs import CHOOSE, LONGER, MEASURE, Job, Run
from experiments.training import Epoch


def read(folder, name):
    """Return the rows of a table, none where it was not written."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_run(folder, name):
    rows = defaultdict(list)
    for row in read(folder, name):
        rows[row["network"], row["pool"], int(row["seed"])].append(row)
    return rows


def epochs_of(rows):
    return [Epoch(float(row["loss"]), float(row["accuracy"]), 0.0) for row in rows]


def runs_of(folder):
    """Read all runs of a comparison."""
    chosen = [
        Run(
            Job(CHOOSE, row["network"], row["pool"], int(row["seed"]), float(row["rate"])),
            [Epoch(0.0, float(row["accuracy"]), 0.0)], float(row["loss"]), [], {}, None,
        )
        for row in read(folder, "rates")
    ]  # fmt: skip
    rates = chosen_rates(chosen)
    convergence, longer, walks, robustness, flatness = (
        by_run(folder, name) for name in ("convergence", "longer", "landscape", "robustness", "flatness")
    )
    others = {(row.pop("root"), int(row.pop("seed"))): row for row in read(folder, "roots")}
    measured = []
    for network, pool, seed in convergence:
        key = network, pool, seed
        (flat,) = flatness[key]
        own = others.get((pool, seed), {})
        measured.append(
            Run(
                job=Job(MEASURE, network, pool, seed, float(own.pop("rate", rates[network, pool]))),
                epochs=epochs_of(convergence[key]),
                loss=0.0,
                walks=[
                    {name: float(value) for name, value in row.items() if name not in ("network", "pool", "seed")}
                    for row in walks[key]
                ],
                robustness={
                    (row["corruption"], int(row["strength"])): float(row["accuracy"])
                    for row in robustness[key]
                    if row["corruption"] != "none"
                },
                flatness=Flatness(
                    float(flat["loss"]),
                    float(flat["eigenvalue"]),
                    float(flat["residual"]),
                    (tuple(float(flat[f"loss_at_{step:g}"]) for step in SURFACE_STEPS),),
                ),
                others={name: float(value) for name, value in own.items()},
            )
        )
    longer_runs = [
        Run(Job(LONGER, network, pool, seed, rates[network, pool]), epochs_of(rows), 0.0, [], {}, None)
        for (network, pool, seed), rows in longer.items()
    ]
    return [*chosen, *measured, *longer_runs]
