"""Tables, plots and the report of made-up runs: they hold and say what the runs hold."""

import csv
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from math import inf, nan

import pytest

from experiments.reproduction import report, run, tables
from experiments.reproduction.claims import (
    CLAIMS,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    UNDECIDED,
    of_claim,
    verdicts,
)
from experiments.reproduction.corruptions import NAMES, STRENGTHS
from experiments.reproduction.experiment import Settings
from experiments.reproduction.figures import figures_of, worst_residual
from experiments.reproduction.run import write_folder
from tests.support.reproduction_runs import made_run

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")

SETTINGS = Settings(seeds=3, epochs=2)


def better(pool, seed):
    """Ahead of ``made_run`` by the same in every seed, and so beyond any margin."""
    return made_run(pool, seed, (96.0, 97.0), corrupted=90.0, band=0.5, distance=0.2, eigenvalue=1.0, rise=0.1)


def worse(pool, seed):
    return made_run(pool, seed, (80.0, 94.0), corrupted=70.0, band=2.0, distance=1.0, eigenvalue=4.0, rise=1.0)


def runs_of(gcp, dropcov):
    makers = {"avg": made_run, "gcp": gcp, "dropcov": dropcov}
    return [maker(pool, seed) for seed in range(3) for pool, maker in makers.items()]


def written(runs, settings=SETTINGS):
    figures = figures_of(runs)
    every = verdicts(figures)
    return report.report(settings, figures, every, ["`the command`"], worst_residual(runs)), every


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
    settings = Settings(seeds=1, epochs=1, hessian_iterations=1)
    text, every = written([better("gcp", 0), made_run("avg", 0), worse("dropcov", 0)], settings)
    assert {v.outcome for v in every} == {UNDECIDED}
    for claim, statement in CLAIMS.items():
        assert f"| {claim}. {statement} | undecided | undecided |" in text
    assert "nan" not in text
    for wrong in ("1 seeds", "1 epochs", "1 steps"):
        assert wrong not in text
    assert "The rule: the one seed gives" in text
    assert "stretched over 1 epoch, with" in text


def test_what_is_opposed_beyond_its_margin_is_named():
    text, _ = written(runs_of(worse, better))
    (line,) = re.findall(r"^- GCP: .*Opposed beyond the margin: final test accuracy.*$", text, flags=re.MULTILINE)
    assert "1 not supported of 1" in line


def test_epochs_as_the_papers_count_them():
    text, _ = written(runs_of(better, worse))
    assert "first reached by average pooling after 100 % of the epochs; by GCP after 50 % of the epochs; " in text
    assert "by DropCov in none. " in text
    (line,) = re.findall(r"^\| epochs to .* DropCov \|.*$", text, flags=re.MULTILINE)
    assert line.endswith("| never reached in 3 of 3 seeds | none in 3 of 3 seeds | not supported |")
    text, _ = written([*runs_of(better, better)[:3], *runs_of(better, worse)[3:]])
    assert "by DropCov in 1 of 3 seeds only, after 50 % of the epochs. " in text
    assert "| never reached in 2 of 3 seeds | none in 2 of 3 seeds | not supported |" in text


def test_seeds_without_a_number_are_counted():
    assert report.over_seeds([1.0, inf, nan], nan, nan, "never") == "never in 1 of 3 seeds, no number in 1 of 3 seeds"
    assert report.over_seeds([inf], inf, nan, "never") == "never in 1 of 1 seed"


def test_without_walks_the_report_says_that_the_landscape_was_not_measured(tmp_path):
    for one in (runs := runs_of(better, worse)):
        one.walks.clear()
    text, every = written(runs)
    assert {v.measure.claim for v in every} == {3, 4, 5, 6}
    assert "landscape.png" not in text
    for claim in (1, 2):
        assert f"| {claim}. {CLAIMS[claim]} | {NOT_MEASURED} | {NOT_MEASURED} |" in text
    assert text.count("\n\nNot measured: no training step was recorded.\n\n") == 2
    tables.write_tables(tmp_path, runs)
    assert not (tmp_path / "landscape.csv").exists()


def test_tables_hold_the_runs(tmp_path):
    runs = runs_of(better, worse)
    every = verdicts(figures_of(runs))
    tables.write_tables(tmp_path, runs)
    tables.write_claims(tmp_path, every)
    contents = {path.stem: read(path) for path in tmp_path.iterdir()}
    assert {name: len(rows) for name, rows in contents.items()} == {
        "convergence": 9 * 2,
        "landscape": 9 * 2,
        "robustness": 9 * (1 + len(NAMES) * len(STRENGTHS)),
        "flatness": 9,
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
        "claim": "4", "measure": "accuracy", "relative": "no", "pool": "dropcov", "seeds": "3",
        "average_pooling_mean": "95", "average_pooling_spread": "0", "mean": "94", "spread": "0",
        "gain": "-1", "margin": "0", "verdict": "not supported",
    }  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 2])
def test_plots_are_drawn_and_small(tmp_path, seeds):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from experiments.reproduction.plots import write_plots

    runs = runs_of(better, worse)[: 3 * seeds]
    paths = write_plots(tmp_path, runs)
    assert sorted(path.name for path in paths) == ["convergence.png", "landscape.png", "robustness.png"]
    text, _ = written(runs)
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < path.stat().st_size < 100_000
        assert f"({path.name})" in text
    for one in runs:
        one.walks.clear()
    assert "landscape.png" not in [path.name for path in write_plots(tmp_path, runs)]


SIX = ("avg", "gcp", "dropcov", "power", "elementwise", "none")


@pytest.mark.parametrize("pools", [SIX[:2], SIX[:3], SIX[:4], SIX], ids=len)
def test_robustness_has_room_for_every_number_of_poolings(pools):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from matplotlib.figure import Figure

    from experiments.reproduction import plots

    figure = Figure(figsize=plots.SIZE, layout="constrained")
    plots.robustness(figure, [made_run(pool, seed) for seed in range(2) for pool in pools])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that does not fit is a warning
        figure.draw_without_rendering()
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [plots.LABELS[pool] for pool in pools]
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    for axes in figure.axes:
        assert box.y0 >= axes.get_window_extent().y1, "above the panels"
        ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(ticks))


@pytest.mark.parametrize("pools", [SIX[:2], SIX], ids=len)
def test_every_pooling_has_its_bands_to_itself(pools):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from matplotlib.figure import Figure

    from experiments.reproduction import plots

    figure = Figure(figsize=plots.SIZE, layout="constrained")
    plots.landscape(figure, [made_run(pool, 0, band=1.0 + number) for number, pool in enumerate(pools)])
    figure.draw_without_rendering()
    columns = len(pools)
    assert len(figure.axes) == 2 * columns
    assert [axes.get_title() for axes in figure.axes[:columns]] == [plots.LABELS[pool] for pool in pools]
    assert all(len(axes.collections) == 1 for axes in figure.axes), "one band each"
    for row in (figure.axes[:columns], figure.axes[columns:]):
        assert len({axes.get_ylim() for axes in row}) == 1
        labels = [axes.yaxis.label.get_window_extent() for axes in (figure.axes[0], figure.axes[columns])]
        assert labels[1].y1 < labels[0].y0
        titles = [axes.title.get_window_extent() for axes in figure.axes[:columns]]
        assert all(left.x1 < right.x0 for left, right in pairwise(titles))


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_convergence_has_a_logarithmic_loss_and_whole_epochs(epochs):
    """Also where the deviation exceeds the mean, which has no logarithm below."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from matplotlib.figure import Figure

    from experiments.reproduction import plots

    runs = [made_run("avg", seed, accuracies=(90.0,) * epochs) for seed in range(3)]
    runs[0].epochs[-1] = replace(runs[0].epochs[-1], loss=100.0)
    figure = Figure(figsize=plots.SIZE, layout="constrained")
    plots.convergence(figure, runs)
    figure.draw_without_rendering()
    _, loss_axes = figure.axes
    assert loss_axes.get_yscale() == "log"
    band = loss_axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(1 / epochs)
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_the_report_states_the_worst_residual():
    runs = runs_of(better, worse)
    runs[-1] = replace(runs[-1], flatness=replace(runs[-1].flatness, residual=2.0))
    text, every = written(runs)
    assert "is at most 50.0 % of the eigenvalue" in text
    assert "(256 of them)" in text
    assert of_claim(6, "gcp", every) == SUPPORTED
    (row,) = re.findall(r"^\| largest Hessian eigenvalue .*DropCov.*$", text, flags=re.MULTILINE)
    assert row.endswith("| no number in 1 of 3 seeds | no number in 1 of 3 seeds | undecided |")


def test_the_report_says_on_what_the_rate_was_chosen():
    text, _ = written(runs_of(better, worse))
    assert "by the accuracy of seeds 0 to 2 on the test images" in text
    assert "so are 3 of the 3 seeds" in text


def test_what_was_measured_is_written_before_anything_is_computed(tmp_path, monkeypatch):
    def fails(runs):
        raise RuntimeError("made up")

    monkeypatch.setattr(run, "figures_of", fails)
    with pytest.raises(RuntimeError, match="made up"):
        write_folder(tmp_path, SETTINGS, runs_of(better, worse), [])
    assert {path.stem for path in tmp_path.iterdir()} == {"convergence", "landscape", "robustness", "flatness"}


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (98.2374, 0.0416, "98.237 ± 0.042"),
        (36.04, 137.2, "36 ± 137"),
        (100.0, 0.0, "100 ± 0"),
        (0.0, 0.0, "0 ± 0"),
        (-0.4, 12.3, "-0.4 ± 12.3"),
        (0.004, 12.3, "0.0 ± 12.3"),
        (-0.004, 12.3, "0.0 ± 12.3"),
        (float("nan"), float("nan"), "no number"),
        (-2.82e-5, 3.4e-4, "-0.00003 ± 0.00034"),
        (0.001234, float("nan"), "0.00123"),
        (float("inf"), float("nan"), "infinite"),
    ],
)
def test_numbers_as_they_are_written(mean, deviation, text):
    assert report.plus_minus(mean, deviation) == text
