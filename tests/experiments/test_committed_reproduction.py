"""docs/reproduction, the default runs that are committed: each follows from its tables; docs/papers.md quotes them."""

import argparse
import re
import shlex
from functools import cache
from math import isfinite
from pathlib import Path
from statistics import fmean

import pytest

from experiments.commands import reproduce
from experiments.reproduction.choice import FIRST_CHOOSING_SEED, choosing_jobs, chosen_rates, first_grids
from experiments.reproduction.claims import CLAIMS, SUPPORTED, measures, of_claim
from experiments.reproduction.corruptions import STRENGTHS, amounts
from experiments.reproduction.longer import less_accurate_with_lower_loss, longer_table, training_loss_table
from experiments.reproduction.plots import LABELS
from experiments.reproduction.report import CHOSEN_BY_VALIDATION, detail, summary
from experiments.reproduction.run import outcome
from experiments.reproduction.runs import CHOOSE, LONGER, MEASURE
from experiments.reproduction.settings import WALKS, defaults, walk_every
from experiments.reproduction.words import over_seeds
from experiments.training import BACKBONES
from tests.support import committed_runs

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")

ROOT = Path(__file__).parents[2]
REPRODUCTION = ROOT / "docs" / "reproduction"
COMMITTED = sorted(folder.name for folder in REPRODUCTION.iterdir() if (folder / "claims.csv").exists())
NEWEST_FIRST = ("typefaces", "mnist", "digits")
QUOTED = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


@cache
def runs_of(data):
    return committed_runs.runs_of(REPRODUCTION / data)


def measured(data):
    return [run for run in runs_of(data) if run.job.kind == MEASURE]


def report_text(data):
    return (REPRODUCTION / data / "report.md").read_text(encoding="utf-8")


def test_there_are_some():
    assert "digits" in COMMITTED


@pytest.mark.parametrize("data", COMMITTED)
def test_it_is_a_run_of_the_defaults(data):
    (command,) = re.findall(r"^- `(python -m experiments reproduce[^`]*)`", report_text(data), flags=re.MULTILINE)
    parser = argparse.ArgumentParser()
    reproduce.add_arguments(parser)
    settings = reproduce.settings_of(parser.parse_args(shlex.split(command)[4:]))
    assert settings == defaults(data)
    runs = runs_of(data)
    assert {run.job for run in runs if run.job.kind == CHOOSE} >= set(choosing_jobs(settings, first_grids(settings)))
    assert len(measured(data)) == len(settings.networks) * len(settings.pools) * settings.seeds
    for kind, epochs in ((MEASURE, settings.epochs), (LONGER, settings.epochs * settings.longer)):
        own = [run for run in runs if run.job.kind == kind]
        assert {run.seed for run in own} == set(range(settings.seeds))
        assert {run.network for run in own} == set(settings.networks)
        assert all(len(run.epochs) == epochs for run in own)
    (images,) = re.findall(r"^- (\d+) training, ", report_text(data), re.MULTILINE)
    every = walk_every(settings, int(images))
    steps = [every * number for number in range(1, WALKS + 1)]
    assert all([row["step"] for row in run.walks] == steps for run in measured(data))
    assert f", every {every} training steps, on the training batch" in report_text(data)


@pytest.mark.parametrize("data", COMMITTED)
def test_it_says_which_commit_made_it_and_when(data):
    lines = re.findall(
        r"^- (\d+) runs of .* in all: commit [0-9a-f]{12}, \d{4}-\d\d-\d\d, .+$", report_text(data), re.M
    )
    assert sum(map(int, lines)) >= len(runs_of(data))


@pytest.mark.parametrize("data", COMMITTED)
def test_nothing_was_chosen_by_what_is_reported(data):
    """The rates are those of the best validation accuracy, from seeds that are not measured."""
    assert {run.seed for run in runs_of(data) if run.job.kind == CHOOSE} <= set(
        range(FIRST_CHOOSING_SEED, FIRST_CHOOSING_SEED + 10)
    )
    assert CHOSEN_BY_VALIDATION in report_text(data)
    section = report_text(data).split("## Learning rates")[1].split("\n## ")[0]
    rates = [f"{rate:g}" for rate in sorted({run.job.rate for run in runs_of(data) if run.job.kind == CHOOSE})]
    for (network, pool), rate in chosen_rates(runs_of(data)).items():
        (row,) = re.findall(
            rf"^\| {re.escape(BACKBONES[network].title)} \| {LABELS[pool]} \| (.*) \|$", section, re.MULTILINE
        )
        bold = [cell.startswith("**") for cell in row.split(" | ")]
        assert bold == [f"{rate:g}" == one for one in rates]


@pytest.mark.parametrize("data", COMMITTED)
def test_the_claims_follow_from_the_tables(data):
    """The tables have six digits; what is computed from them has about five."""
    rows = committed_runs.read(REPRODUCTION / data, "claims")
    recomputed = [
        (network, v) for network, of_it in outcome(defaults(data), runs_of(data)).verdicts.items() for v in of_it
    ]
    assert [(row["network"], row["measure"], row["pool"]) for row in rows] == [
        (network, v.measure.key, v.pool) for network, v in recomputed
    ]
    for row, (_, verdict) in zip(rows, recomputed, strict=True):
        assert row["verdict"] == verdict.outcome, row
        for key, value in (
            ("average_pooling_mean", verdict.baseline_mean), ("mean", verdict.mean), ("gain", verdict.gain),
        ):  # fmt: skip
            assert float(row[key]) == pytest.approx(value, rel=1e-3, abs=1e-4), row


@pytest.mark.parametrize("data", COMMITTED)
def test_the_report_states_the_verdicts(data):
    verdicts = outcome(defaults(data), runs_of(data)).verdicts
    assert f"{summary(defaults(data), verdicts)}\n\n{CHOSEN_BY_VALIDATION}\n" in report_text(data)
    for network, of_it in verdicts.items():
        for row in detail(network, [v for v in of_it if not isfinite(v.mean)]):
            assert f"\n| {' | '.join(row)} |\n" in report_text(data)


@pytest.mark.parametrize("data", COMMITTED)
def test_a_stronger_corruption_never_helps(data):
    """From barely visible to clearly harmful: in the mean over networks, poolings and seeds."""
    runs = measured(data)
    clean = fmean(run.accuracy for run in runs)
    for name in amounts(data):
        means = [fmean(run.robustness[name, strength] for run in runs) for strength in STRENGTHS]
        assert means == sorted(means, reverse=True), name
        assert clean - means[0] < 10, name
        assert clean - means[-1] > 10, name


@pytest.mark.parametrize("data", COMMITTED)
def test_the_folder_is_small(data):
    files = list((REPRODUCTION / data).iterdir())
    assert sum(path.stat().st_size for path in files if path.suffix == ".csv") < 400_000
    assert all(path.stat().st_size < 200_000 for path in files)
    assert {path.suffix for path in files} == {".csv", ".png", ".md"}


@pytest.mark.parametrize("data", COMMITTED)
def test_the_documentation_shows_the_verdicts(data):
    """The tables of the report, whole."""
    verdicts = outcome(defaults(data), runs_of(data)).verdicts
    for table in summary(defaults(data), verdicts).split("\n\n"):
        assert f"\n{table}\n" in QUOTED
    assert f"(reproduction/{data}/report.md)" in QUOTED


def test_the_documentation_shows_what_was_measured():
    """Rows of the form "| measure | data | network | average pooling | GCP | DropCov |", in the reports' own digits."""
    shown = 0
    for data in COMMITTED:
        verdicts = outcome(defaults(data), runs_of(data)).verdicts
        for measure in measures(tuple(amounts(data))):
            for title, cells in re.findall(
                rf"^\| {re.escape(measure.text)} \| {data} \| (\S+) \| (.*) \|$", QUOTED, flags=re.MULTILINE
            ):
                (network,) = (name for name, backbone in BACKBONES.items() if backbone.title == title)
                own = {v.pool: v for v in verdicts[network] if v.measure == measure}
                gcp, dropcov = own["gcp"], own["dropcov"]
                assert cells.split(" | ") == [
                    over_seeds(gcp.baseline_figures, gcp.baseline_mean, gcp.baseline_spread, measure.infinite),
                    *(over_seeds(v.figures, v.mean, v.spread, measure.infinite) for v in (gcp, dropcov)),
                ], measure.text
                shown += 1
    assert shown >= 5


def supported(pool):
    """Count the claims that each network supports, newest data first, as the README has them."""
    of_data = []
    for data in sorted(COMMITTED, key=NEWEST_FIRST.index):
        verdicts = outcome(defaults(data), runs_of(data)).verdicts
        counts = [
            f"{BACKBONES[network].title} {sum(of_claim(claim, pool, of_it) == SUPPORTED for claim in CLAIMS)}"
            for network, of_it in verdicts.items()
        ]
        of_data.append(f"{data}: {', '.join(counts)}")
    return "; ".join(of_data)


def test_the_readme_counts_the_claims_that_are_supported():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for pool, row in (
        ("gcp", f"of the papers' {len(CLAIMS)} claims for GCP against average pooling, supported in small"),
        ("dropcov", f"of the same {len(CLAIMS)}, asked of DropCov, supported in small"),
    ):
        assert f"| {row} | {supported(pool)} | [reports](docs/papers.md) |" in readme


def test_the_readme_counts_what_is_left_when_average_pooling_has_twice_the_epochs():
    verdicts = {"GCP": [], "DropCov": []}
    for data in COMMITTED:
        for _, pooling, *_, found in re.findall(
            r"^\| (\S+) \| (\S+) \| (.*) \| (.*) \|$", longer_table(defaults(data), runs_of(data)), re.MULTILINE
        )[1:]:
            verdicts[pooling].append(found)
    of_gcp, of_dropcov = (f"{every.count(SUPPORTED)} of {len(every)}" for every in verdicts.values())
    row = "higher accuracy than average pooling trained for twice the epochs, in small"
    counts = f"GCP in {of_gcp} networks, DropCov in {of_dropcov}"
    assert f"| {row} | {counts} | [reports](docs/papers.md) |" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("data", COMMITTED)
def test_report_and_documentation_show_average_pooling_for_longer(data):
    table = longer_table(defaults(data), runs_of(data))
    assert f"\n{table}\n" in report_text(data)
    assert f"\n{table}\n" in QUOTED


@pytest.mark.parametrize("data", COMMITTED)
def test_report_and_documentation_show_how_far_training_came(data):
    table = training_loss_table(defaults(data), runs_of(data))
    assert f"\n{table}\n" in report_text(data)
    assert f"\n{table}\n" in QUOTED
    said = less_accurate_with_lower_loss(defaults(data), runs_of(data))
    assert f"\n{said}\n" in report_text(data)
    assert said in " ".join(QUOTED.split(f"\n{table}\n")[1].split("\n\n")[0].split())
