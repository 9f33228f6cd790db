"""Tables, plots and the report of made-up runs: they hold and say what the runs hold."""

import csv
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from math import inf, nan

import pytest

from experiments.reproduction import notes, report, run, tables, words
from experiments.reproduction.choice import chosen_rates, extended_grids, first_grids
from experiments.reproduction.claims import CLAIMS, NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, UNDECIDED, of_claim
from experiments.reproduction.corruptions import DIGITS, STRENGTHS
from experiments.reproduction.figures import worst_residual
from experiments.reproduction.run import outcome, write_folder
from experiments.reproduction.settings import Settings
from tests.support.reproduction_runs import DATA, choosing_run, longer_run, made_run

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")

SETTINGS = Settings(seeds=3, epochs=2, rates=(0.05, 0.1, 0.2))
CHOOSING = [
    choosing_run(pool, rate, accuracy)
    for pool in ("avg", "gcp", "dropcov")
    for rate, accuracy in ((0.05, 80.0), (0.1, 92.0), (0.2, 0.0))
]
LONGER = [longer_run(seed, 95.5) for seed in range(3)]


def better(pool, seed):
    """Ahead of ``made_run`` by the same in every seed, and so beyond any margin."""
    return made_run(pool, seed, (96.0, 97.0), corrupted=90.0, band=0.5, distance=0.2, eigenvalue=1.0, rise=0.1)


def worse(pool, seed):
    return made_run(pool, seed, (80.0, 94.0), corrupted=70.0, band=2.0, distance=1.0, eigenvalue=4.0, rise=1.0)


def runs_of(gcp, dropcov):
    makers = {"avg": made_run, "gcp": gcp, "dropcov": dropcov}
    return [maker(pool, seed) for seed in range(3) for pool, maker in makers.items()]


def written(measured, settings=SETTINGS):
    runs = [*measured, *CHOOSING, *LONGER[: settings.seeds]]
    found = outcome(settings, runs)
    residual = worst_residual(measured)
    text = report.report(settings, DATA, runs, found.figures, found.verdicts, ["`the command`"], residual)
    return text, found.verdicts["cnn"]


def found_of(runs):
    found = outcome(SETTINGS, runs)
    return found.figures, found.verdicts


def row_of(claim, pool, text):
    """Return the verdict in the summary's row of a claim."""
    own = text.split(f"| {pool} against average pooling |")[1].split("\n\n")[0]
    ((verdict),) = re.findall(rf"^\| {claim}\. {re.escape(CLAIMS[claim])} \| (.*) \|$", own, flags=re.MULTILINE)
    return verdict


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_says_what_the_numbers_say():
    text, every = written(runs_of(better, worse))
    for claim in CLAIMS:
        assert of_claim(claim, "gcp", every) == SUPPORTED
        assert of_claim(claim, "dropcov", every) == NOT_SUPPORTED
        assert row_of(claim, "GCP", text) == "**supported**"
        assert row_of(claim, "DropCov", text) == "not supported"
    assert text.count("- CNN-64, GCP: **supported**") == len(CLAIMS)
    assert text.count("- CNN-64, DropCov: **not supported**") == len(CLAIMS)
    assert "undecided" not in report.summary(SETTINGS, {"cnn": every})
    assert "`the command`" in text


def test_the_report_of_the_same_runs_under_other_names_says_the_opposite():
    text, _ = written(runs_of(worse, better))
    for claim in CLAIMS:
        assert row_of(claim, "GCP", text) == "not supported"
        assert row_of(claim, "DropCov", text) == "**supported**"


def test_a_single_seed_decides_nothing():
    settings = replace(SETTINGS, seeds=1, epochs=1, hessian_iterations=1)
    text, every = written([better("gcp", 0), made_run("avg", 0), worse("dropcov", 0)], settings)
    assert {v.outcome for v in every} == {UNDECIDED}
    assert {row_of(claim, pool, text) for claim in CLAIMS for pool in ("GCP", "DropCov")} == {"undecided"}
    assert "nan" not in text
    for wrong in ("1 seeds", "1 epochs", "1 steps"):
        assert wrong not in text
    assert "The rule: the one seed gives" in text
    assert "stretched over 1 epoch, with" in text


def test_what_is_opposed_beyond_its_margin_is_named():
    text, _ = written(runs_of(worse, better))
    (line,) = re.findall(
        r"^- CNN-64, GCP: .*Opposed beyond the margin: final test accuracy.*$", text, flags=re.MULTILINE
    )
    assert "1 not supported of 1" in line


def test_epochs_as_the_papers_count_them():
    text, _ = written(runs_of(better, worse))
    assert "CNN-64: by average pooling after 100 % of the epochs; by GCP after 50 % of the epochs; " in text
    assert "by DropCov in none. " in text
    (line,) = re.findall(r"^\| epochs to .* DropCov \|.*$", text, flags=re.MULTILINE)
    assert line.endswith("| never reached in 3 of 3 seeds | none in 3 of 3 seeds | not supported |")
    text, _ = written([*runs_of(better, better)[:3], *runs_of(better, worse)[3:]])
    assert "by DropCov in 1 of 3 seeds only, after 50 % of the epochs. " in text
    assert "| never reached in 2 of 3 seeds | none in 2 of 3 seeds | not supported |" in text


def test_seeds_without_a_number_are_counted():
    assert words.over_seeds([1.0, inf, nan], nan, nan, "never") == "never in 1 of 3 seeds, no number in 1 of 3 seeds"
    assert words.over_seeds([inf], inf, nan, "never") == "never in 1 of 1 seed"


def test_without_walks_the_report_says_that_the_landscape_was_not_measured(tmp_path):
    for one in (runs := runs_of(better, worse)):
        one.walks.clear()
    text, every = written(runs)
    assert {v.measure.claim for v in every} == {3, 4, 5, 6}
    assert "landscape" not in "".join(re.findall(r"!\[.*", text))
    for claim in (1, 2):
        assert row_of(claim, "GCP", text) == row_of(claim, "DropCov", text) == NOT_MEASURED
    assert text.count("\n\nNot measured: no training step was recorded.\n\n") == 2
    tables.write_tables(tmp_path, runs)
    assert not (tmp_path / "landscape.csv").exists()


def test_tables_hold_the_runs(tmp_path):
    runs = [*runs_of(better, worse), *CHOOSING, *LONGER]
    every = outcome(SETTINGS, runs).verdicts
    tables.write_tables(tmp_path, runs)
    tables.write_claims(tmp_path, every)
    contents = {path.stem: read(path) for path in tmp_path.iterdir()}
    assert {name: len(rows) for name, rows in contents.items()} == {
        "rates": 9,
        "convergence": 9 * 2,
        "longer": 3,
        "landscape": 9 * 2,
        "robustness": 9 * (1 + len(DIGITS) * len(STRENGTHS)),
        "flatness": 9,
        "claims": len(every["cnn"]),
    }
    first = {"network": "cnn", "pool": "avg", "seed": "0"}
    assert contents["convergence"][1] == first | {"epoch": "2", "loss": "0.5", "accuracy": "95"}
    assert contents["longer"][0] == first | {"epoch": "1", "loss": "0.1", "accuracy": "95.5"}
    assert contents["rates"][2] == first | {"seed": "1000", "rate": "0.2", "accuracy": "0", "loss": "inf"}
    assert contents["landscape"][3]["loss_max"] == "1"
    assert contents["landscape"][3]["step"] == "4"
    assert contents["robustness"][0]["corruption"] == "none"
    assert contents["robustness"][0]["accuracy"] == "95"
    assert contents["flatness"][1]["eigenvalue"] == "1"
    assert contents["flatness"][1]["loss_at_0.1"] == "0.225"
    (accuracy,) = (row for row in contents["claims"] if row["measure"] == "accuracy" and row["pool"] == "dropcov")
    assert accuracy == {
        "network": "cnn", "claim": "4", "measure": "accuracy", "relative": "no", "pool": "dropcov", "seeds": "3",
        "average_pooling_mean": "95", "average_pooling_spread": "0", "mean": "94", "spread": "0",
        "gain": "-1", "margin": "0", "verdict": "not supported",
    }  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 2])
def test_plots_are_drawn_and_small(tmp_path, seeds):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from experiments.reproduction.plots import write_plots

    runs = runs_of(better, worse)[: 3 * seeds]
    paths = write_plots(tmp_path, runs)
    assert sorted(path.name for path in paths) == ["convergence.png", "landscape-cnn.png", "robustness.png"]
    text, _ = written(runs, replace(SETTINGS, seeds=seeds))
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert 5_000 < path.stat().st_size < 100_000
        assert f"({path.name})" in text
    for one in runs:
        one.walks.clear()
    assert "landscape-cnn.png" not in [path.name for path in write_plots(tmp_path, runs)]


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
        assert box.y1 <= axes.get_window_extent().y0, "below the panels"
        ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(ticks))


@pytest.mark.parametrize("pools", [SIX[:2], SIX], ids=len)
def test_every_pooling_has_its_bands_to_itself(pools):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from experiments.reproduction import plots

    runs = [made_run(pool, 0, band=1.0 + number) for number, pool in enumerate(pools)]
    figure = plots.drawn(plots.landscape, [runs])
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


@pytest.mark.parametrize(("accuracies", "ends"), [((90.0, 97.0), (80.0, 100.5)), ((30.0, 20.0), (10.0, 40.0))])
def test_convergence_shows_where_the_networks_end_and_nothing_is_cut_off_above(accuracies, ends):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    from matplotlib.figure import Figure

    from experiments.reproduction import plots

    figure = Figure(figsize=plots.SIZE, layout="constrained")
    plots.convergence(figure, [made_run("avg", seed, accuracies) for seed in range(3)])
    assert figure.axes[0].get_ylim() == ends


def test_the_report_states_the_worst_residual():
    runs = runs_of(better, worse)
    runs[-1] = replace(runs[-1], flatness=replace(runs[-1].flatness, residual=2.0))
    text, every = written(runs)
    assert "is at most 50.0 % of the eigenvalue" in text
    assert "(2 of them)" in text
    assert of_claim(6, "gcp", every) == SUPPORTED
    (row,) = re.findall(r"^\| largest Hessian eigenvalue .*DropCov.*$", text, flags=re.MULTILINE)
    assert row.endswith("| no number in 1 of 3 seeds | no number in 1 of 3 seeds | undecided |")


def test_every_rate_is_in_the_report_and_the_chosen_one_bold():
    text, _ = written(runs_of(better, worse))
    assert text.count(report.CHOSEN_BY_VALIDATION) == 1
    assert "| network | pooling | 0.05 | 0.1 | 0.2 |" in text
    for pool in ("average pooling", "GCP", "DropCov"):
        assert f"| CNN-64 | {pool} | 80.00 | **92.00** | diverged |" in text
    assert "trainings that did: 3." in text
    assert "Still at an end" not in text
    ends = [run for run in CHOOSING if run.job.rate < 0.2]
    text = report.report(
        SETTINGS, DATA, [*(runs := runs_of(better, worse)), *ends, *LONGER], *found_of(runs), [], worst_residual(runs)
    )
    assert "Still at an end, so that a rate beyond it may be better: DropCov of CNN-64; GCP of CNN-64; " in text
    text, _ = written(runs_of(better, worse), replace(SETTINGS, rates=(0.1,)))
    assert "One rate for all: nothing was chosen." in text


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (((0.1, 90.0, 0.5), (0.2, 91.0, 0.9)), 0.2),
        (((0.1, 90.0, 0.5), (0.2, 90.0, 0.4)), 0.2),
        (((0.1, 90.0, 0.4), (0.2, 90.0, 0.5)), 0.1),
        (((0.1, 99.0, inf), (0.2, 10.0, 2.3)), 0.2),
    ],
)
def test_the_rate_of_the_best_accuracy_is_chosen_and_of_equals_that_of_the_lower_loss(candidates, expected):
    """The mean over seeds counts: of the last seed alone it would always be the first candidate."""
    runs = [choosing_run("gcp", rate, accuracy, loss) for rate, accuracy, loss in candidates]
    runs += [choosing_run("gcp", rate, 10.0, 1.0, seed=1001) for rate, _, _ in candidates]
    assert chosen_rates([*runs, *runs_of(better, worse)]) == {("cnn", "gcp"): expected}


def test_a_grid_goes_on_where_an_end_is_the_best():
    settings = replace(SETTINGS, pools=("avg", "gcp"), rates=(0.1, 0.2), extensions=2)
    accuracies = {0.025: 70.0, 0.05: 95.0, 0.1: 90.0, 0.2: 80.0, 0.4: 99.0, 0.8: 99.5}
    grids = first_grids(settings)
    seen = [grids]
    for _ in range(4):
        runs = [choosing_run("avg", rate, accuracies[rate]) for rate in grids["cnn", "avg"]]
        runs += [choosing_run("gcp", rate, 100.0 * rate) for rate in grids["cnn", "gcp"]]
        grids = extended_grids(settings, grids, runs)
        seen.append(grids)
    assert seen[1]["cnn", "avg"] == (0.05, 0.1, 0.2)
    assert seen[2]["cnn", "avg"] == (0.025, 0.05, 0.1, 0.2)
    assert seen[3] == seen[4]
    assert seen[4]["cnn", "gcp"] == (0.1, 0.2, 0.4, 0.8), "twice, and no further"
    one = replace(settings, rates=(0.1,))
    assert extended_grids(one, first_grids(one), [choosing_run("avg", 0.1, 90.0)]) == first_grids(one)


def test_several_networks_have_a_column_and_rows_and_plots_each(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")

    def of(network, runs):
        return [replace(run, job=replace(run.job, network=network)) for run in runs]

    settings = replace(SETTINGS, networks=("cnn", "resnet18"))
    runs = [*runs_of(better, worse), *CHOOSING, *LONGER]
    runs += of("resnet18", [*runs_of(worse, better), *CHOOSING, *LONGER])
    found = write_folder(tmp_path, settings, DATA, runs, [])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| GCP against average pooling | CNN-64 | ResNet-18/4 |" in text
    assert "evenly spaced d from 0.1 to 75, every training step, on" in text
    assert "to 75, every 7 training steps, on" in notes.differences(replace(SETTINGS, landscape_every=7), DATA)
    assert f'schedule "{settings.schedule}", stretched over' in text
    assert ("the last of which has rate zero" in text) == (settings.schedule == "adju")
    of_two = notes.differences(replace(settings, networks=("cnn", "mobilenetv2")), DATA)
    assert "spaced d from 0.1 to 75 on CNN-64 and from 0.045 to 1.5 on MobileNetV2/4, every" in of_two
    for claim in CLAIMS:
        assert row_of(claim, "GCP", text) == "**supported** | not supported"
    assert [path.name for path in sorted(tmp_path.glob("landscape-*.png"))] == [
        "landscape-cnn.png", "landscape-resnet18.png",
    ]  # fmt: skip
    assert len(read(tmp_path / "claims.csv")) == len(found.verdicts["cnn"]) + len(found.verdicts["resnet18"])
    assert found.figures["cnn"]["accuracy"]["gcp"] == found.figures["resnet18"]["accuracy"]["dropcov"]


def test_what_was_measured_is_written_before_anything_is_computed(tmp_path, monkeypatch):
    def fails(runs):
        raise RuntimeError("made up")

    monkeypatch.setattr(run, "figures_of", fails)
    with pytest.raises(RuntimeError, match="made up"):
        write_folder(tmp_path, SETTINGS, DATA, [*runs_of(better, worse), *CHOOSING, *LONGER], [])
    assert {path.stem for path in tmp_path.iterdir()} == {
        "rates", "convergence", "longer", "landscape", "robustness", "flatness",
    }  # fmt: skip


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
    assert words.plus_minus(mean, deviation) == text
