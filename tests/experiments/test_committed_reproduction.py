"""docs/reproduction, the default run that is committed: it follows from its own tables; docs/papers.md quotes it."""

import csv
import re
from collections import defaultdict
from itertools import groupby
from math import isfinite
from pathlib import Path
from statistics import fmean

import pytest

from experiments.commands import reproduce
from experiments.reproduction.claims import BASELINE, CLAIMS, MEASURES, verdicts
from experiments.reproduction.corruptions import NAMES, STRENGTHS
from experiments.reproduction.experiment import Run, Settings
from experiments.reproduction.figures import figures_of
from experiments.reproduction.flatness import SURFACE_STEPS, Flatness
from experiments.reproduction.report import CHOSEN_ON_TEST_IMAGES, detail, over_seeds, summary
from experiments.training import Epoch

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reproduction"
QUOTED = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def read(name):
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_run(name):
    rows = defaultdict(list)
    for row in read(name):
        rows[row["pool"], int(row["seed"])].append(row)
    return rows


@pytest.fixture(scope="module")
def runs():
    """Read the runs from the tables."""
    convergence, walks, robustness, flatness = map(by_run, ("convergence", "landscape", "robustness", "flatness"))
    made = []
    for pool, seed in convergence:
        (flat,) = flatness[pool, seed]
        made.append(
            Run(
                pool=pool,
                seed=seed,
                epochs=[Epoch(float(row["loss"]), float(row["accuracy"]), 0.0) for row in convergence[pool, seed]],
                walks=[
                    {key: float(value) for key, value in row.items() if key not in ("pool", "seed")}
                    for row in walks[pool, seed]
                ],
                robustness={
                    (row["corruption"], int(row["strength"])): float(row["accuracy"])
                    for row in robustness[pool, seed]
                    if row["corruption"] != "none"
                },
                flatness=Flatness(
                    float(flat["loss"]),
                    float(flat["eigenvalue"]),
                    float(flat["residual"]),
                    (tuple(float(flat[f"loss_at_{step:g}"]) for step in SURFACE_STEPS),),
                ),
            )
        )
    return made


def test_it_is_a_run_of_the_defaults(runs):
    (command,) = re.findall(r"^- `(python -m experiments reproduce[^`]*)`", report_text(), flags=re.MULTILINE)
    assert command == "python -m experiments reproduce"
    settings = Settings()
    assert settings == reproduce.DEFAULT
    assert {run.pool for run in runs} == set(settings.pools)
    assert len(runs) == len(settings.pools) * settings.seeds
    assert all(len(run.epochs) == settings.epochs for run in runs)
    assert all(run.walks[0]["step"] == settings.landscape_every for run in runs)


def report_text():
    return (FOLDER / "report.md").read_text(encoding="utf-8")


def test_the_claims_follow_from_the_tables(runs):
    """The tables have six digits; what is computed from them has about five."""
    rows = read("claims")
    recomputed = verdicts(figures_of(runs))
    assert [(row["measure"], row["pool"]) for row in rows] == [(v.measure.key, v.pool) for v in recomputed]
    for row, verdict in zip(rows, recomputed, strict=True):
        assert row["verdict"] == verdict.outcome, row
        for key, value in (
            ("average_pooling_mean", verdict.baseline_mean), ("mean", verdict.mean), ("gain", verdict.gain),
        ):  # fmt: skip
            assert float(row[key]) == pytest.approx(value, rel=1e-3), row


def test_the_report_states_the_verdicts(runs):
    every = verdicts(figures_of(runs))
    pools = [pool for pool in Settings().pools if pool != BASELINE]
    assert f"{summary(list(CLAIMS), pools, every)}\n\n{CHOSEN_ON_TEST_IMAGES}\n" in report_text()
    assert report_text().count("| supported |") == sum(v.outcome == "supported" for v in every)


def test_the_report_counts_the_seeds_that_never_came_there(runs):
    (row,) = [v for v in verdicts(figures_of(runs)) if not isfinite(v.mean)]
    assert f"\n{detail([row]).splitlines()[-1]}\n" in report_text()


def test_a_stronger_corruption_never_helps(runs):
    """From barely visible to clearly harmful, for every network: in the mean over seeds."""
    for pool, of_pool in groupby(sorted(runs, key=lambda run: run.pool), key=lambda run: run.pool):
        networks = list(of_pool)
        clean = fmean(run.epochs[-1].accuracy for run in networks)
        for name in NAMES:
            means = [fmean(run.robustness[name, strength] for run in networks) for strength in STRENGTHS]
            assert means == sorted(means, reverse=True), (pool, name)
            assert clean - means[0] < 10, (pool, name)
            assert clean - means[-1] > 10, (pool, name)


def test_the_folder_is_small():
    files = list(FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files if path.suffix == ".csv") < 200_000
    assert all(path.stat().st_size < 100_000 for path in files)


def test_the_documentation_shows_the_committed_run(runs):
    """Rows of the form "| text | average pooling | GCP | DropCov |", in the report's own words and digits."""
    by_pool = {(row["measure"], row["pool"]): row for row in read("claims")}
    figures = {(v.measure.key, v.pool): v.figures for v in verdicts(figures_of(runs))}
    baseline = {v.measure.key: v.baseline_figures for v in verdicts(figures_of(runs))}
    shown = 0
    for measure in MEASURES:
        for cells in re.findall(rf"^\| {re.escape(measure.text)} \| (.*) \|$", QUOTED, flags=re.MULTILINE):
            any_pool = by_pool[measure.key, "gcp"]
            mean, spread = float(any_pool["average_pooling_mean"]), float(any_pool["average_pooling_spread"])
            expected = [over_seeds(baseline[measure.key], mean, spread, measure.infinite)]
            for key in ((measure.key, pool) for pool in ("gcp", "dropcov")):
                mean, spread = float(by_pool[key]["mean"]), float(by_pool[key]["spread"])
                expected.append(over_seeds(figures[key], mean, spread, measure.infinite))
            assert cells.split(" | ") == expected, measure.text
            shown += 1
    assert shown >= 5
    for claim, statement in CLAIMS.items():
        assert re.search(rf"^\| {claim}\. {re.escape(statement)} \|.*$", QUOTED, flags=re.MULTILINE)[0] in report_text()
