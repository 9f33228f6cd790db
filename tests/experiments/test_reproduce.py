"""The reproduce command: small runs of the real thing, bad arguments, and the run that is committed."""

import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from experiments.commands import demo_extra, reproduce
from experiments.datasets import load_dataset
from experiments.reproduction import experiment, settings
from experiments.reproduction.choice import choosing_jobs, first_grids, measuring_jobs
from experiments.reproduction.corruptions import DIGITS, STRENGTHS
from experiments.reproduction.experiment import train_and_measure
from experiments.reproduction.report import CHOSEN_BY_VALIDATION
from experiments.reproduction.runs import CHOOSE, LONGER, MEASURE, Job, Run
from experiments.reproduction.settings import WALKS, Settings, walk_every
from experiments.running import Log
from tests.support.reproduce_command import QUICK, ROOT, TABLES, needs_the_extra, parse, read

pytestmark = pytest.mark.same_without_gpu

PLOTS = ("convergence.png", "landscape-cnn.png", "robustness.png")
CHECK = settings.check(settings.defaults("digits"))


def test_a_check_of_the_command_writes_everything(tmp_path):
    needs_the_extra()
    folder = tmp_path / "new" / "folder"
    command = [
        sys.executable,
        "-m",
        "experiments",
        "reproduce",
        "--check",
        "--seeds",
        "1",
        "--jobs",
        "2",
        "--output",
        str(folder),
    ]
    completed = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == sorted((*TABLES, *PLOTS, "report.md", reproduce.RUNS))
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert not completed.stderr, "no progress bar into a pipe"
    assert "`python -m experiments reproduce --check --seeds 1`: 10 runs, each on one thread" in report
    assert re.search(
        r"^- 10 runs of \d+\.\d minutes in all: commit \S+, \d{4}-\d\d-\d\d, \S+ CPU$", report, re.MULTILINE
    )
    assert f"- **W{reproduce.CHECK_MEANS_NOTHING[1:]}.**" in report
    assert reproduce.CHECK_MEANS_NOTHING in completed.stdout
    assert f"({CHECK.flatness_images} of them)" in report
    summary = report.split("## Verdicts\n\n")[1].split(f"\n\n{CHOSEN_BY_VALIDATION}")[0]
    assert summary.count("\n| ") == 2 * 6 + 1
    assert f"{summary}\n\n{CHOSEN_BY_VALIDATION}" in completed.stdout
    convergence = read(folder / "convergence.csv")
    assert {(row["pool"], row["seed"], row["epoch"]) for row in convergence} == {
        (pool, "0", epoch) for pool in ("avg", "gcp", "dropcov") for epoch in "12"
    }
    assert {(row["pool"], row["epoch"]) for row in read(folder / "longer.csv")} == {("avg", epoch) for epoch in "1234"}
    assert len(read(folder / "rates.csv")) == 3 * 2
    assert len(read(folder / "landscape.csv")) == 3 * (2 * 4 // CHECK.landscape_every)
    assert len(read(folder / "robustness.csv")) == 3 * (1 + len(DIGITS) * len(STRENGTHS))
    for row in read(folder / "flatness.csv"):
        assert float(row["eigenvalue"]) != 0
    torch.rand(7)  # another global random state
    assert reproduce.run(parse("--check", "--seeds", "1", "--jobs", "1", "--output", str(tmp_path / "alone"))) == 0
    for table in TABLES:
        assert (tmp_path / "alone" / table).read_bytes() == (folder / table).read_bytes(), "one run at a time or two"


def test_what_is_not_measured_is_said(tmp_path, capsys):
    needs_the_extra()
    flags = (*QUICK, "--pools", "gcp", "--rates", "0.1", "--landscape-every", "1000", "--output")
    assert reproduce.run(parse(*flags, str(tmp_path / "new"))) == 0
    row = "| 1. the loss is smoother | not measured: no training step was recorded |"
    report = (tmp_path / "new" / "report.md").read_text(encoding="utf-8")
    assert row in capsys.readouterr().out
    assert row in report
    assert "classes, 1 seed\n" in report
    assert not list((tmp_path / "new").glob("landscape*"))


def test_a_run_is_kept_as_it_was(digits, tmp_path):
    done = [train_and_measure(Job(kind, "cnn", "gcp", 3, 0.1), digits, TINY) for kind in (CHOOSE, MEASURE, LONGER)]
    done.append(train_and_measure(Job(CHOOSE, "cnn", "avg", 3, 1e38), digits, TINY))
    assert done[-1].loss == float("inf")
    assert not done[-1].epochs
    log = Log(tmp_path / "runs", asdict(TINY))
    for run in done:
        log.add(str(run.job), run.to_save(), 1.0)
    again = Log(tmp_path / "runs", asdict(TINY))
    assert [Run.from_saved(again[key]) for key in again] == done


def test_nothing_is_chosen_by_test_images(digits):
    """What chooses is the same with other test images; what is reported is not."""
    trained = replace(digits, test=digits.train)
    other = replace(digits, test=replace(digits.train, labels=(digits.train.labels + 1) % 10))
    other.test.images[::2] = other.test.images[::2].flip(-1)
    for kind, same in ((CHOOSE, True), (MEASURE, False), (LONGER, False)):
        job = Job(kind, "cnn", "gcp", 0, 0.1)
        first, second = (train_and_measure(job, data, TINY) for data in (trained, other))
        assert (first.loss == second.loss) == same
        assert (first.accuracy == second.accuracy) == same
    seeds = {job.seed for job in choosing_jobs(TINY, first_grids(TINY))}
    assert not seeds & {job.seed for job in measuring_jobs(TINY, {("cnn", pool): 0.1 for pool in TINY.pools})}


def test_the_settings_of_cudnn_allow_no_tf32():
    before = torch.backends.cudnn.allow_tf32
    with experiment.reproducible(torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.fixture
def digits():
    needs_the_extra()
    loaded = load_dataset("digits", torch.device("cpu"))
    return replace(
        loaded, train=loaded.train.first(60), validation=loaded.validation.first(30), test=loaded.test.first(30)
    )


TINY = Settings(
    epochs=2, batch_size=20, landscape_steps=2, flatness_images=20, hessian_iterations=1, surface_directions=1
)  # fmt: skip


def test_walks_leave_the_training_as_it_is(digits):
    """DropCov draws masks in every walk; with and without walks the network must come out the same."""

    def dropcov(seed):
        return Job(MEASURE, "cnn", "dropcov", seed, 0.2)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    often = train_and_measure(dropcov(0), digits, TINY)
    never = train_and_measure(dropcov(0), digits, replace(TINY, landscape_every=1000))
    other = train_and_measure(dropcov(1), digits, replace(TINY, landscape_every=1000))
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left alone"
    assert [row["step"] for row in often.walks] == [1, 2, 3, 4, 5, 6], "a training of so few steps: from each"
    assert not never.walks
    assert [epoch.loss for epoch in often.epochs] == [epoch.loss for epoch in never.epochs]
    assert often.robustness == never.robustness
    assert often.flatness == never.flatness
    assert [epoch.loss for epoch in other.epochs] != [epoch.loss for epoch in never.epochs]
    longer = train_and_measure(dropcov(0), digits, replace(TINY, epochs=1, batch_size=1))
    assert [row["step"] for row in longer.walks] == list(range(3, 61, 3)), "a training of 60 steps: from 20"


@pytest.mark.parametrize(
    ("data", "images"), [("digits", 449), ("mnist", 2000), ("typefaces", 3000), ("a/folder", 80), ("a/folder", 10**6)]
)
@pytest.mark.parametrize("epochs", [8, 100])
def test_a_training_has_about_as_many_walks_however_long_it_is(data, images, epochs):
    of_data = replace(settings.defaults(data), epochs=epochs)
    steps = epochs * -(-images // of_data.batch_size)
    walks = steps // walk_every(of_data, images)
    assert WALKS / 1.5 < walks < 1.5 * WALKS
    assert walk_every(replace(of_data, landscape_every=3), images) == 3


def test_walks_go_as_far_as_published(digits):
    """MobileNetV2 by a fiftieth of what ResNets are walked by."""
    assert settings.step_sizes(TINY, "cnn") == settings.step_sizes(TINY, "resnet18") == (0.1, 75.0)
    assert settings.step_sizes(TINY, "mobilenetv2") == (0.045, 1.5)
    given = replace(TINY, landscape_range=(0.045, 1.5))
    assert settings.step_sizes(given, "cnn") == (0.045, 1.5)
    job = Job(MEASURE, "mobilenetv2", "avg", 0, 0.05)
    every = replace(TINY, epochs=1, landscape_every=2)
    by_itself, as_told, further = (
        train_and_measure(job, digits, replace(every, landscape_range=of_walk)).walks
        for of_walk in (None, (0.045, 1.5), (0.1, 75.0))
    )
    assert by_itself == as_told != further


def test_every_pool_is_measured(digits):
    few = Settings(
        epochs=1, batch_size=30, landscape_every=1, landscape_steps=2, flatness_images=10, hessian_iterations=1,
        surface_directions=1,
    )  # fmt: skip
    for pool in ("power", "elementwise", "none"):
        run = train_and_measure(Job(MEASURE, "cnn", pool, 0, 0.1), digits, few)
        assert run.pool == pool
        assert len(run.walks) == 2
        assert len(run.robustness) == len(DIGITS) * len(STRENGTHS)
        assert run.flatness.eigenvalue == pytest.approx(run.flatness.eigenvalue)  # not NaN


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), Settings()),
        (("--check",), CHECK),
        (("--data", "mnist"), settings.DEFAULTS["mnist"]),
        (("--data", "typefaces", "--small"), settings.small(settings.DEFAULTS["typefaces"])),
        (("--rates", "0.3", "0.1", "0.3", "--device", "cpu"), Settings(rates=(0.3, 0.1), device="cpu")),
        (("--pools", "none", "avg", "none"), Settings(pools=("avg", "none"))),
        (("--landscape-range", "0.5", "2"), Settings(landscape_range=(0.5, 2.0))),
        (("--seeds", "9", "--schedule", "norm", "--epochs", "100"), Settings(seeds=9, schedule="norm", epochs=100)),
    ],
)
def test_flags_replace_defaults(flags, expected):
    assert reproduce.settings_of(parse(*flags)) == expected


def test_the_command_line_that_repeats_a_run():
    flags = (
        "--small",
        "--data",
        "mnist",
        "--pools",
        "gcp",
        "none",
        "--landscape-range",
        "0.5",
        "20",
        "--device",
        "cpu",
    )
    words = reproduce.command_line(parse(*flags, "--output", "somewhere", "--jobs", "3")).split()
    assert words[:4] == ["python", "-m", "experiments", "reproduce"]
    assert reproduce.settings_of(parse(*words[4:])) == reproduce.settings_of(parse(*flags))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0"), "at least 1, got '0'"),
        (("--epochs", "two"), "at least 1, got 'two'"),
        (("--landscape-every", "0"), "at least 1, got '0'"),
        (("--landscape-steps", "1"), "at least 2, got '1'"),
        (("--landscape-range", "0", "1"), "above 0 and finite, got '0'"),
        (("--landscape-range", "1"), "expected 2 arguments"),
        (("--pools", "max"), "invalid choice: 'max'"),
        (("--networks", "vgg"), "invalid choice: 'vgg'"),
        (("--rates", "0"), "above 0"),
        (("--small", "--check"), "not allowed with argument --small"),
        (("--jobs", "0"), "at least 1, got '0'"),
        (("--schedule", "cosine"), "invalid choice: 'cosine'"),
        (("--device", "gpu"), "must be cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ending:
        parse(*arguments)
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "full"), "full: it is not empty; name a new folder"),
        (("--output", "file"), "file: it is a file; name a new folder"),
        (("--output", "file/inside"), "file/inside: it cannot be made"),
        (("--output", "new", "--landscape-range", "2", "1"), "LOW must be below HIGH, got 2 1"),
        (("--output", "new", "--pools", "avg"), "--pools: avg always runs; name another to compare with it"),
        (
            ("--output", "new", "--data", "cifar"),
            "error: data must be one of 'digits', 'mnist', 'typefaces' or a folder",
        ),
        (("--output", "new", "--data", "mnist", "--image-size", "32"), "error: image_size is for a folder of images"),
        (("--output", "new", "--data", "full"), "error: full must be a folder with train/ and val/"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(flags, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.md").touch()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run_and_write", lambda *args: pytest.fail("work was started"))
    assert reproduce.run(parse(*flags)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
    assert not (tmp_path / "new").exists()


def test_missing_packages_give_one_error_that_names_the_extra(tmp_path, capsys, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(demo_extra.importlib, "import_module", absent)
    assert reproduce.run(parse("--output", str(tmp_path / "new"))) == 1
    captured = capsys.readouterr()
    assert "scikit-learn, tqdm, matplotlib missing" in captured.err
    assert 'pip install --no-build-isolation --editable ".[demo]" in a checkout' in captured.err
    assert not (tmp_path / "new").exists()
