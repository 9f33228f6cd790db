"""docs/reproduction, the other experiments: each committed report is what its tables give when it is written again."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from experiments.datasets import load_dataset
from experiments.pretrained import report as pretrained_report
from experiments.pretrained import results as pretrained_results
from experiments.pretrained import run as pretrained_run
from experiments.pretrained.costs import Cost
from experiments.pretrained.experiment import STAGES, Outcome, Trial
from experiments.pretrained.experiment import Settings as PretrainedSettings
from experiments.reproduction.runs import MEASURE, of_kind
from experiments.reproduction.settings import WALKS, walk_every
from experiments.roots import report as roots_report
from experiments.roots import tables as roots_tables
from experiments.roots.comparison import figures_of, verdicts
from experiments.roots.settings import defaults as roots_defaults
from experiments.transfer import report as transfer_report
from experiments.transfer import tables as transfer_tables
from experiments.transfer import verdicts as transfer_verdicts
from experiments.transfer.choice import classifier_rates, detector_rates, of_classifiers, of_detectors
from experiments.transfer.plots import LABELS
from experiments.transfer.settings import RANDOM
from experiments.transfer.settings import Settings as TransferSettings
from gcp_kernels.nn.poolings import BASELINE, PUBLISHED_POOLINGS
from tests.support.committed_runs import read, runs_of
from tests.support.transfer_runs import read_back

for package in ("scipy", "sklearn", "mlxtend", "matplotlib", "PIL"):
    pytest.importorskip(package, reason=f"{package} is not installed (extra: demo)")

ROOT = Path(__file__).parents[2]
REPRODUCTION = ROOT / "docs" / "reproduction"
MADE = r"\d+ runs of [\d.]+ minutes in all: commit [0-9a-f]{12}, \d{4}-\d\d-\d\d, .+"


def texts(folder):
    """Return a report and the lines that head it."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    return text, re.findall(r"^- (.*)$", text.split("\n## ")[0], re.MULTILINE)


def unwrapped(text):
    """Return the text on one line, however it was broken into lines."""
    return " ".join(text.split())


@cache
def images(name):
    return load_dataset(name, torch.device("cpu"))


def behind_a_pretrained_network(folder):
    """Read results from the tables."""
    settings = PretrainedSettings()
    heads = {head.name: head for head in (*settings.frozen, *settings.tuned)}
    outcomes = {
        Trial(
            row["network"], row["data"], heads[row["pooling"]], float(row["learning_rate"]), int(row["seed"]),
            row["judged_on"],
        ): Outcome(
            float(row["accuracy"]), float(row["loss"]), (float(row["training_loss"]),), float(row["seconds"]),
            row.get("right", ""),
        )
        for table in ("learning_rates", "accuracy")
        for row in read(folder, table)
    }  # fmt: skip
    grid, final = (
        {trial: one for trial, one in outcomes.items() if trial.part == part} for part in ("validation", "test")
    )
    compared = dict.fromkeys((trial.stage, trial.data, trial.head) for trial in grid)
    about = {}
    for name in settings.data:
        data = images(name)
        most = {
            "training": settings.frozen_images, "validation": settings.validation_images, "test": settings.test_images,
        }  # fmt: skip
        parts = {"training": data.train, "validation": data.validation, "test": data.test}
        about[name] = pretrained_results.About(
            len(data.classes), data.source, data.licence,
            {part: min(len(parts[part]), count) for part, count in most.items()}, (data.size, data.size), (1280, 7, 7),
        )  # fmt: skip
    return pretrained_results.Results(
        settings, about, grid, {one: pretrained_run.chosen_rate(grid, *one) for one in compared}, final,
        {row["pooling"]: Cost(float(row["milliseconds"]), float(row["mebibytes"])) for row in read(folder, "costs")},
    )  # fmt: skip


def pretrained(folder, lines):
    results = behind_a_pretrained_network(folder)
    return pretrained_report.report(results, lines[:-1]), pretrained_results.verdict_rows(results)


def transfer(folder, lines):
    choices, runs = read_back(folder)
    against = {baseline: transfer_verdicts.verdicts(runs, baseline) for baseline in (BASELINE, RANDOM)}
    text = transfer_report.report(
        TransferSettings(), images("mnist"), choices, runs, against[BASELINE], against[RANDOM], lines
    )
    return text, transfer_tables.verdict_rows(against)


def roots(folder, lines):
    settings = roots_defaults(folder.name.removeprefix("roots-"))
    runs = runs_of(folder)
    figures = figures_of(runs)
    every = verdicts(figures)
    assert len(of_kind(MEASURE, runs)) == len(settings.pools) * settings.seeds
    package, torch_version = re.search(r"gcp_kernels (\S+), torch (\S+)$", "\n".join(lines), re.MULTILINE).groups()
    data = images(settings.data)
    versions = {"gcp_kernels": package, "torch": torch_version, "images": data.fingerprint()}
    made = [line for line in lines if re.fullmatch(MADE, line)]
    text = roots_report.report(settings, data, runs, figures, every, versions, made)
    return text, roots_tables.verdict_rows(every)


NUMBER = re.compile(r"(\d+\.\d+|\d+)")


def assert_same_but_for_the_last_digit(again, text):
    """Allow a number to be rounded to the other side, for the tables have six digits; all else is equal."""
    ours, theirs = NUMBER.split(again), NUMBER.split(text)
    assert ours[::2] == theirs[::2]
    for our, their in zip(ours[1::2], theirs[1::2], strict=True):
        if our != their:
            assert "." in their
            assert len(our) == len(their)
            assert abs(int(our.replace(".", "")) - int(their.replace(".", ""))) <= 1, (our, their)


def test_only_the_last_digit_may_differ():
    assert_same_but_for_the_last_digit("| 0.0175 ± 0.000079 | 3 |", "| 0.0175 ± 0.000080 | 3 |")
    for other in ("| 0.0175 ± 0.000081 | 3 |", "| 0.0175 ± 0.000079 | 4 |", "| 0.0175 ± 0.00008 | 3 |", "|"):
        with pytest.raises(AssertionError):
            assert_same_but_for_the_last_digit("| 0.0175 ± 0.000079 | 3 |", other)


# The parts of a report, by its section, that docs/papers.md has too: so many paragraphs or tables from its beginning.
QUOTED = {
    "pretrained": {"Final accuracy": 1, "Behind the same reduction": 3, "Time and memory of the pooling": 3},
    "transfer": {"Verdicts": 2, "Against average pooling": 1, "Against random weights": 2},
    "roots-mnist": {"Answer": 1},
    "roots-typefaces": {"Answer": 1},
}
WRITERS = {"pretrained": pretrained, "transfer": transfer, "roots-mnist": roots, "roots-typefaces": roots}


@pytest.mark.parametrize("name", WRITERS)
def test_the_report_is_what_its_tables_give(name):
    folder = REPRODUCTION / name
    text, lines = texts(folder)
    assert any(re.fullmatch(MADE, line) for line in lines), "it says which commit made it and when"
    again, rows = WRITERS[name](folder, lines)
    assert_same_but_for_the_last_digit(again, text)
    committed = read(folder, "verdicts")
    assert len(committed) == len(rows) > 0
    for row, expected in zip(committed, rows, strict=True):
        assert list(row) == list(expected)
        for key, value in expected.items():
            if isinstance(value, float):
                assert float(row[key]) == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True), (row, key)
            else:
                assert row[key] == str(value), (row, key)


@pytest.mark.parametrize("name", WRITERS)
def test_it_is_a_run_of_the_defaults(name):
    """All that the defaults ask for is there, and nothing else."""
    folder = REPRODUCTION / name
    if name == "pretrained":
        results = behind_a_pretrained_network(folder)
        settings = results.settings
        assert set(results.rates) == {
            (stage, data, head) for data, stage in results.comparisons() for head in settings.heads(stage)
        }
        for stage, data, head in results.rates:
            assert set(results.tried(stage, data, head)) >= set(settings.rates(stage))
            assert len(results.accuracies(stage, data, head)) == settings.seeds(stage)
        assert len(results.final) == sum(settings.seeds(stage) for stage, _, _ in results.rates)
    elif name == "transfer":
        settings = TransferSettings()
        choices, runs = read_back(folder)
        known, learning = classifier_rates(choices), detector_rates(choices)
        for trunks, grid, tried in (
            (settings.pools, settings.classifier_rates, of_classifiers(choices)),
            (settings.trunks, settings.detector_rates, of_detectors(choices)),
        ):
            assert {trunk: tuple(by_rate) for trunk, by_rate in tried.items()} == dict.fromkeys(trunks, grid)
        assert all(
            (run.classifier_rate, run.detector_rate) == (known.get(run.trunk), learning[run.trunk]) for run in runs
        )
        assert {(run.trunk, run.seed) for run in runs} == {
            (trunk, seed) for trunk in settings.trunks for seed in range(settings.seeds)
        }
        assert all(len(losses) == settings.epochs for run in runs for losses in run.losses.values())
        assert all(run.precisions[-1].epoch == settings.epochs for run in runs)
    else:
        settings = roots_defaults(name.removeprefix("roots-"))
        measured = of_kind(MEASURE, runs_of(folder))
        assert {(run.pool, run.seed) for run in measured} == {
            (root, seed) for root in settings.pools for seed in range(settings.seeds)
        }
        assert all(len(run.epochs) == settings.epochs for run in measured)
        every = walk_every(settings, len(images(settings.data).train))
        steps = [every * number for number in range(1, WALKS + 1)]
        assert all([row["step"] for row in run.walks] == steps for run in measured)


@pytest.mark.parametrize("name", WRITERS)
def test_the_folder_is_small(name):
    files = list((REPRODUCTION / name).iterdir())
    assert all(path.stat().st_size < 400_000 for path in files)
    assert {path.suffix for path in files} == {".csv", ".png", ".md"}


@pytest.mark.parametrize("name", WRITERS)
def test_the_documentation_quotes_what_was_found(name):
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    text, _ = texts(REPRODUCTION / name)
    for section, most in QUOTED[name].items():
        found = text.split(f"\n## {section}\n\n")[1].split("\n## ")[0].strip().split("\n\n")[:most]
        assert len(found) == most
        for part in found:
            assert unwrapped(part) in unwrapped(page), section
    assert f"(reproduction/{name}/report.md)" in page


@pytest.mark.parametrize(("name", "outcome"), [("roots-mnist", "within the margin"), ("roots-typefaces", "worse")])
def test_no_better_root_trains_to_a_higher_accuracy(name, outcome):
    """As the documentation says, before it quotes."""
    distance, accuracy = (
        {row["root"]: row["outcome"] for row in read(REPRODUCTION / name, "verdicts") if row["measure"] == measure}
        for measure in ("root_error", "accuracy")
    )
    assert {accuracy[root] for root, nearer in distance.items() if nearer == "better"} == {outcome}
    (paragraph,) = (part for part in texts(REPRODUCTION / name)[0].split("\n\n") if part.startswith("All roots are tr"))
    assert unwrapped(paragraph) in unwrapped((ROOT / "docs" / "papers.md").read_text(encoding="utf-8"))


def test_what_is_said_of_less_exact_roots_with_rates_of_their_own():
    best = {}
    for row in read(REPRODUCTION / "roots-typefaces", "rates"):
        best[row["pool"]] = max(best.get(row["pool"], 0.0), float(row["accuracy"]))
    *others, last, published = (f"{best[f'n{steps}']:.1f}" for steps in range(1, 6))
    page = unwrapped((ROOT / "docs" / "papers.md").read_text(encoding="utf-8"))
    assert f"each with the best of three rates: {', '.join(others)} and {last} % against {published} %" in page


def test_the_readme_says_whether_pretrained_networks_are_more_accurate():
    rows = read(REPRODUCTION / "pretrained", "verdicts")

    def supported(against):
        for pool in PUBLISHED_POOLINGS:
            outcomes = [row["verdict"] for row in rows if row["pooling"].split("-")[0] == pool and against(row)]
            yield f"{LABELS[pool]} in {outcomes.count('supported')} of {len(outcomes)}"

    alone = [
        f"{stage} {', '.join(supported(lambda row, of=stage: (row['network'], row['against']) == (of, BASELINE)))}"
        for stage in STAGES
    ]
    reduced = ", ".join(supported(lambda row: row["against"].startswith(f"{BASELINE}-")))
    row = (
        "higher accuracy than average pooling behind ImageNet weights, in small | "
        f"{'; '.join(alone)}; both, behind the same reduction {reduced}"
    )
    assert f"| {row} | [report](docs/reproduction/pretrained/report.md) |" in (ROOT / "README.md").read_text("utf-8")


def test_the_readme_says_whether_trunks_transfer_better():
    _, runs = read_back(REPRODUCTION / "transfer")
    against = transfer_verdicts.verdicts(runs, BASELINE)
    found = "; ".join(f"{LABELS[pool]} {transfer_verdicts.of_claim(pool, against)}" for pool in PUBLISHED_POOLINGS)
    row = f"trunks transfer better than average pooling's to detection and segmentation, in small | {found}"
    assert f"| {row} | [report](docs/reproduction/transfer/report.md) |" in (ROOT / "README.md").read_text("utf-8")
