"""reproduce --transfer and the like: another experiment, with settings of its own."""

import re
from dataclasses import replace

import pytest

from experiments.commands import other_experiments, reproduce
from experiments.commands.output_folder import RUNS as RUNS_FILE
from experiments.pretrained import experiment as pretrained
from experiments.pretrained import run as pretrained_run
from experiments.roots import run as roots_run
from experiments.roots import settings as roots
from experiments.running import OtherRunsError
from experiments.running.folder_lock import lock, unlock
from experiments.training import NonFiniteLossError
from experiments.transfer import run as transfer_run
from experiments.transfer import settings as transfer
from tests.support.reproduce_command import needs_the_extra, parse

pytestmark = pytest.mark.same_without_gpu


RUNS = {
    "transfer": (transfer_run, transfer.Settings(), transfer.SMALL),
    "pretrained": (pretrained_run, pretrained.Settings(), pretrained.SMALL),
    "roots": (roots_run, roots.defaults("digits"), roots.small(roots.defaults("digits"))),
}


@pytest.mark.parametrize("name", other_experiments.EXPERIMENTS)
def test_another_experiment_has_settings_of_its_own(name, tmp_path, capsys, monkeypatch):
    ran = []

    def run(settings, folder, say, jobs=None):
        ran.append((settings, jobs))
        say("a run is done")
        (folder / RUNS_FILE).touch()

    module, whole, small = RUNS[name]
    monkeypatch.setattr(module, "run", run)
    folder = tmp_path / "new" / "folder"
    for flags in ((), ("--small",), ("--jobs", "1")):
        assert reproduce.run(parse(f"--{name}", *flags, "--output", str(folder))) == 0, "it goes on in its folder"
    alone = (whole, 1) if name == "roots" else (replace(whole, jobs=1), None)
    assert ran == [(whole, None), (small, None), alone]
    out = capsys.readouterr().out
    assert out.count("a run is done") == 3
    assert f"written to {folder}, with report.md" in out
    assert reproduce.run(parse(f"--{name}", "--epochs", "3", "--output", str(folder))) == 2
    assert re.search(
        rf"--{name} takes of the other options --output, --small, --jobs.*, got --epochs", capsys.readouterr().err
    )
    assert reproduce.run(parse(f"--{name}", "--device", "cpu", "--output", str(folder))) == (
        0 if name == "roots" else 2
    )
    if name == "roots":
        assert ran.pop()[0].device == "cpu"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.md").touch()
    assert reproduce.run(parse(f"--{name}", "--output", str(tmp_path / "full"))) == 2
    assert "it is not empty" in capsys.readouterr().err
    assert len(ran) == 3


def test_data_are_for_the_roots_alone(tmp_path, capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(roots_run, "run", lambda settings, folder, say, jobs: ran.append(settings))
    assert reproduce.run(parse("--roots", "--data", "mnist", "--output", str(tmp_path / "new"))) == 0
    assert ran == [roots.DEFAULTS["mnist"]]
    assert reproduce.run(parse("--transfer", "--data", "mnist", "--output", str(tmp_path / "new"))) == 2
    assert "got --data" in capsys.readouterr().err
    assert reproduce.run(parse("--roots", "--data", "cifar", "--output", str(tmp_path / "other"))) == 2
    assert "error: data must be one of 'digits'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("flags", [("--transfer",), ("--pretrained",), ("--roots",), ("--check",)])
def test_a_folder_in_which_another_process_writes_is_refused(flags, tmp_path, capsys):
    needs_the_extra()
    held = lock(tmp_path)
    try:
        assert reproduce.run(parse(*flags, "--output", str(tmp_path))) == 2
        assert "another process writes there" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    finally:
        unlock(held)


def test_a_fault_of_ours_is_no_line_about_an_option(tmp_path, monkeypatch):
    def run(settings, folder, say):
        raise ValueError("made up")

    monkeypatch.setattr(transfer_run, "run", run)
    with pytest.raises(ValueError, match="made up"):
        reproduce.run(parse("--transfer", "--output", str(tmp_path / "new")))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ImportError("torchvision is missing"), 1, "error: torchvision is missing"),
        (OtherRunsError("of other settings"), 2, "error: --output: of other settings"),
        (NonFiniteLossError("it diverged"), 1, "error: it diverged; the runs that were done are kept"),
        (KeyboardInterrupt(), 130, "error: interrupted; the runs that were done are kept"),
    ],
)
def test_another_experiment_ends_with_one_line(error, code, message, tmp_path, capsys, monkeypatch):
    def run(settings, folder, say):
        raise error

    monkeypatch.setattr(transfer_run, "run", run)
    assert reproduce.run(parse("--transfer", "--output", str(tmp_path / "new"))) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not (tmp_path / "new").exists()
