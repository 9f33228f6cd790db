"""The reproduce command: small runs of the real thing, bad arguments, and the run that is committed."""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.commands import demo_extra, reproduce
from experiments.reproduction import experiment
from experiments.reproduction.corruptions import NAMES, STRENGTHS
from experiments.reproduction.experiment import Settings, train_and_measure
from experiments.reproduction.report import CHOSEN_ON_TEST_IMAGES

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
TABLES = ("claims.csv", "convergence.csv", "flatness.csv", "landscape.csv", "robustness.csv")
PLOTS = ("convergence.png", "landscape.png", "robustness.png")


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="reproduce")
    reproduce.add_arguments(parser)
    return parser.parse_args(arguments)


def needs_the_extra():
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra: demo)")


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_run_of_the_command_writes_everything(tmp_path):
    needs_the_extra()
    folder = tmp_path / "new" / "folder"
    completed = subprocess.run(
        [sys.executable, "-m", "experiments", "reproduce", "--small", "--output", str(folder)],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == sorted((*TABLES, *PLOTS, "report.md"))
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert not completed.stderr, "no progress bar into a pipe"
    assert "`python -m experiments reproduce --small`" in report
    assert f"- **W{reproduce.SMALL_MEANS_NOTHING[1:]}.**" in report
    assert reproduce.SMALL_MEANS_NOTHING in completed.stdout
    assert f"({reproduce.SMALL.flatness_images} of them)" in report
    summary = report.split("## Verdicts")[1].split("\n\n")[1]
    assert summary.count("\n") == 7
    assert f"{summary}\n\n{CHOSEN_ON_TEST_IMAGES}" in completed.stdout
    convergence = read(folder / "convergence.csv")
    assert {(row["pool"], row["seed"], row["epoch"]) for row in convergence} == {
        (pool, seed, epoch) for pool in ("avg", "gcp", "dropcov") for seed in "01" for epoch in "12"
    }
    assert len(read(folder / "landscape.csv")) == 6 * (2 * 8 // reproduce.SMALL.landscape_every)
    assert len(read(folder / "robustness.csv")) == 6 * (1 + len(NAMES) * len(STRENGTHS))
    for row in read(folder / "flatness.csv"):
        assert float(row["eigenvalue"]) != 0


def test_same_flags_same_tables(tmp_path, capsys):
    needs_the_extra()
    flags = ("--small", "--seeds", "1", "--epochs", "1", "--pools", "dropcov", "--device", "cpu", "--output")
    for name in ("first", "second"):
        assert reproduce.run(parse(*flags, str(tmp_path / name))) == 0
        torch.rand(7)  # another global random state for the second
    for table in TABLES:
        assert (tmp_path / "first" / table).read_bytes() == (tmp_path / "second" / table).read_bytes()
    assert len(read(tmp_path / "first" / "convergence.csv")) == 2
    assert "undecided" in capsys.readouterr().out


def test_what_is_not_measured_is_said(tmp_path, capsys):
    needs_the_extra()
    flags = ("--small", "--seeds", "1", "--epochs", "1", "--pools", "gcp", "--landscape-every", "1000", "--output")
    assert reproduce.run(parse(*flags, str(tmp_path / "new"))) == 0
    row = "| 1. the loss is smoother | not measured: no training step was recorded |"
    report = (tmp_path / "new" / "report.md").read_text(encoding="utf-8")
    assert row in capsys.readouterr().out
    assert row in report
    assert "test images, 1 seed\n" in report
    assert not (tmp_path / "new" / "landscape.png").exists()


def test_an_interruption_ends_with_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    needs_the_extra()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "run_all", interrupted)
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there" / "new" / "folder", tmp_path / "there"):
        assert reproduce.run(parse("--small", "--output", str(folder))) == 130
        error = capsys.readouterr().err
        assert error == (
            "experiments reproduce: error: interrupted; runs that are not yet written are lost, and it cannot resume\n"
        )
        assert list((tmp_path / "there").iterdir()) == []


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
    from dataclasses import replace

    from experiments.training import load_digits_split

    loaded = load_digits_split(torch.device("cpu"))
    return replace(
        loaded,
        train_images=loaded.train_images[:60],
        train_labels=loaded.train_labels[:60],
        test_images=loaded.test_images[:30],
        test_labels=loaded.test_labels[:30],
    )


TINY = Settings(
    epochs=2, batch_size=20, landscape_steps=2, flatness_images=20, hessian_iterations=1, surface_directions=1
)  # fmt: skip


def test_walks_leave_the_training_as_it_is(digits):
    """DropCov draws masks in every walk; with and without walks the network must come out the same."""
    from dataclasses import replace

    torch.manual_seed(3)
    before = torch.get_rng_state()
    often = train_and_measure("dropcov", 0, digits, replace(TINY, landscape_every=1), lambda: None)
    never = train_and_measure("dropcov", 0, digits, replace(TINY, landscape_every=1000), lambda: None)
    other = train_and_measure("dropcov", 1, digits, replace(TINY, landscape_every=1000), lambda: None)
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left alone"
    assert [row["step"] for row in often.walks] == [1, 2, 3, 4, 5, 6]
    assert not never.walks
    assert [epoch.loss for epoch in often.epochs] == [epoch.loss for epoch in never.epochs]
    assert often.robustness == never.robustness
    assert often.flatness == never.flatness
    assert [epoch.loss for epoch in other.epochs] != [epoch.loss for epoch in never.epochs]


def test_every_pool_is_measured(digits):
    settings = Settings(
        epochs=1, batch_size=30, landscape_every=1, landscape_steps=2, flatness_images=10, hessian_iterations=1,
        surface_directions=1,
    )  # fmt: skip
    for pool in ("power", "elementwise", "none"):
        run = train_and_measure(pool, 0, digits, settings, lambda: None)
        assert run.pool == pool
        assert len(run.walks) == 2
        assert len(run.robustness) == len(NAMES) * len(STRENGTHS)
        assert run.flatness.eigenvalue == pytest.approx(run.flatness.eigenvalue)  # not NaN


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), reproduce.DEFAULT),
        (("--small",), reproduce.SMALL),
        (("--pools", "none", "avg", "none"), Settings(pools=("avg", "none"))),
        (("--landscape-range", "0.5", "2"), Settings(landscape_range=(0.5, 2.0))),
        (("--seeds", "9", "--schedule", "norm", "--epochs", "100"), Settings(seeds=9, schedule="norm", epochs=100)),
    ],
)
def test_flags_replace_defaults(flags, expected):
    assert reproduce.settings_of(parse(*flags)) == expected


def test_the_command_line_that_repeats_a_run():
    flags = ("--small", "--pools", "gcp", "none", "--landscape-range", "0.5", "20", "--device", "cpu")
    words = reproduce.command_line(parse(*flags, "--output", "somewhere")).split()
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
    ],
)
def test_what_cannot_work_is_refused_before_any_work(flags, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.md").touch()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "load_digits_split", lambda device: pytest.fail("work was started"))
    assert reproduce.run(parse(*flags)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
    assert not (tmp_path / "new").exists()


def test_a_training_that_diverges_ends_with_one_error(tmp_path, capsys, monkeypatch):
    needs_the_extra()
    monkeypatch.setattr(experiment, "LEARNING_RATE", 1e38)
    assert reproduce.run(parse("--small", "--landscape-every", "1000", "--output", str(tmp_path / "new"))) == 1
    assert "error: avg, seed 0: the training loss is nan in epoch 1, step" in capsys.readouterr().err
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
