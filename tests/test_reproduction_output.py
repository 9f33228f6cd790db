"""Tables, plots and the report of made-up runs: they hold and say what the runs hold."""

import csv
import re

import pytest
from reproduction_runs import made_run

from gcp_kernels.reproduction import report, tables
from gcp_kernels.reproduction.claims import CLAIMS, NOT_SUPPORTED, SUPPORTED, UNDECIDED, of_claim, verdicts
from gcp_kernels.reproduction.corruptions import NAMES, STRENGTHS
from gcp_kernels.reproduction.experiment import Settings
from gcp_kernels.reproduction.figures import figures_of

SETTINGS = Settings(seeds=2, epochs=2)


def better(pool, seed):
    """Ahead of ``made_run`` by the same in every seed, and so beyond any margin."""
    return made_run(pool, seed, (96.0, 97.0), corrupted=90.0, band=0.5, distance=0.2, eigenvalue=1.0, rise=0.1)


def worse(pool, seed):
    return made_run(pool, seed, (80.0, 94.0), corrupted=70.0, band=2.0, distance=1.0, eigenvalue=4.0, rise=1.0)


def runs_of(gcp, dropcov):
    makers = {"avg": made_run, "gcp": gcp, "dropcov": dropcov}
    return [maker(pool, seed) for seed in range(2) for pool, maker in makers.items()]


def written(runs, settings=SETTINGS):
    figures = figures_of(runs)
    every = verdicts(figures)
    return report.report(settings, figures, every, ["`the command`"]), every


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_says_what_the_numbers_say():
    text, every = written(runs_of(better, worse))
    for claim, statement in CLAIMS.items():
        assert of_claim(claim, "gcp", every) == SUPPORTED
        assert of_claim(claim, "dropcov", every) == NOT_SUPPORTED
        assert f"| {claim}. {statement} | **supported** | not supported |" in text
    assert text.count("- GCP: **supported**") == len(CLAIMS)
    assert text.count("- DropCov: **not supported**") == len(CLAIMS)
    assert "undecided" not in report.summary(list(CLAIMS), ["gcp", "dropcov"], every)
    assert "`the command`" in text


def test_the_report_of_the_same_runs_under_other_names_says_the_opposite():
    text, _ = written(runs_of(worse, better))
    for claim, statement in CLAIMS.items():
        assert f"| {claim}. {statement} | not supported | **supported** |" in text


def test_a_single_seed_decides_nothing():
    text, every = written([better("gcp", 0), made_run("avg", 0), worse("dropcov", 0)])
    assert {v.outcome for v in every} == {UNDECIDED}
    for claim, statement in CLAIMS.items():
        assert f"| {claim}. {statement} | undecided | undecided |" in text
    assert "nan" not in text


def test_what_is_opposed_beyond_its_margin_is_named():
    text, _ = written(runs_of(worse, better))
    (line,) = re.findall(r"^- GCP: .*Opposed beyond the margin: final test accuracy.*$", text, flags=re.MULTILINE)
    assert "1 not supported of 1" in line


def test_epochs_as_the_papers_count_them():
    text, _ = written(runs_of(better, worse))
    assert "first reached by average pooling after 100 % of the epochs; by GCP after 50 % of the epochs; " in text
    assert "by DropCov in none. " in text
    assert "not finite" in text
    text, _ = written([*runs_of(better, worse)[:3], *runs_of(better, better)[3:]])
    assert "by DropCov in 1 of 2 seeds only, after 50 % of the epochs. " in text


def test_without_walks_nothing_is_said_of_the_landscape(tmp_path):
    for run in (runs := runs_of(better, worse)):
        run.walks.clear()
    text, every = written(runs)
    assert {v.measure.claim for v in every} == {3, 4, 5, 6}
    assert "landscape.png" not in text
    assert CLAIMS[1] not in text
    tables.write_tables(tmp_path, runs, every)
    assert not (tmp_path / "landscape.csv").exists()


def test_tables_hold_the_runs(tmp_path):
    runs = runs_of(better, worse)
    every = verdicts(figures_of(runs))
    tables.write_tables(tmp_path, runs, every)
    contents = {path.stem: read(path) for path in tmp_path.iterdir()}
    assert {name: len(rows) for name, rows in contents.items()} == {
        "convergence": 6 * 2,
        "landscape": 6 * 2,
        "robustness": 6 * (1 + len(NAMES) * len(STRENGTHS)),
        "flatness": 6,
        "claims": len(every),
    }
    assert contents["convergence"][1] == {"pool": "avg", "seed": "0", "epoch": "2", "loss": "0.5", "accuracy": "95"}
    assert contents["landscape"][3]["loss_max"] == "1"
    assert contents["landscape"][3]["step"] == "4"
    assert contents["robustness"][0]["corruption"] == "none"
    assert contents["robustness"][0]["accuracy"] == "95"
    assert contents["flatness"][1]["eigenvalue"] == "1"
    assert contents["flatness"][1]["loss_at_0.1"] == "0.225"
    (accuracy,) = (row for row in contents["claims"] if row["measure"] == "accuracy" and row["pool"] == "dropcov")
    assert accuracy == {
        "claim": "4", "measure": "accuracy", "relative": "no", "pool": "dropcov", "seeds": "2",
        "average_pooling_mean": "95", "average_pooling_spread": "0", "mean": "94", "spread": "0",
        "gain": "-1", "margin": "0", "verdict": "not supported",
    }  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 2])
def test_plots_are_drawn_and_small(tmp_path, seeds):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from gcp_kernels.reproduction.plots import write_plots

    runs = runs_of(better, worse)[: 3 * seeds]
    paths = write_plots(tmp_path, runs)
    assert sorted(path.name for path in paths) == ["convergence.png", "landscape.png", "robustness.png"]
    text, _ = written(runs)
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < path.stat().st_size < 100_000
        assert f"({path.name})" in text
    for run in runs:
        run.walks.clear()
    assert "landscape.png" not in [path.name for path in write_plots(tmp_path, runs)]


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (98.2374, 0.0416, "98.237 ± 0.042"),
        (36.04, 137.2, "36 ± 137"),
        (100.0, 0.0, "100 ± 0"),
        (0.0, 0.0, "0 ± 0"),
        (-2.82e-5, 3.4e-4, "-0.00003 ± 0.00034"),
        (0.001234, float("nan"), "0.00123"),
        (float("inf"), float("nan"), "not finite"),
    ],
)
def test_numbers_as_they_are_written(mean, deviation, text):
    assert report.plus_minus(mean, deviation) == text
