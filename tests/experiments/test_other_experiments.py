"""reproduce --transfer and the like: another experiment, with settings of its own."""

from dataclasses import replace

import pytest

from experiments.commands import other_experiments, reproduce
from experiments.running import OtherRunsError
from experiments.training import NonFiniteLossError
from tests.support.reproduce_command import parse

pytestmark = pytest.mark.same_without_gpu


@pytest.mark.parametrize("name", other_experiments.EXPERIMENTS)
def test_another_experiment_has_settings_of_its_own(name, tmp_path, capsys, monkeypatch):
    ran = []

    def run(settings, folder, say):
        ran.append(settings)
        say("a run is done")
        (folder / other_experiments.RUNS).touch()

    own = other_experiments.EXPERIMENTS[name]
    monkeypatch.setitem(other_experiments.EXPERIMENTS, name, replace(own, run=run))
    folder = tmp_path / "new" / "folder"
    for flags in ((), ("--small",), ("--jobs", "1")):
        assert reproduce.run(parse(f"--{name}", *flags, "--output", str(folder))) == 0, "it goes on in its folder"
    assert ran == [own.settings, own.small, replace(own.settings, jobs=1)]
    out = capsys.readouterr().out
    assert out.count("a run is done") == 3
    assert f"written to {folder}, with report.md" in out
    assert reproduce.run(parse(f"--{name}", "--epochs", "3", "--data", "mnist", "--output", str(folder))) == 2
    assert f"--{name} takes --output, --small and --jobs of the other options, got --data, --epochs" in (
        capsys.readouterr().err
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.md").touch()
    assert reproduce.run(parse(f"--{name}", "--output", str(tmp_path / "full"))) == 2
    assert "it is not empty" in capsys.readouterr().err
    assert len(ran) == 3


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

    own = other_experiments.EXPERIMENTS["transfer"]
    monkeypatch.setitem(other_experiments.EXPERIMENTS, "transfer", replace(own, run=run))
    assert reproduce.run(parse("--transfer", "--output", str(tmp_path / "new"))) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not (tmp_path / "new").exists()
