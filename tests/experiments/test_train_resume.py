"""Training that is killed by SIGKILL and resumed ends as if nothing had happened, bit for bit."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from experiments.__main__ import main
from tests.support import training_runs
from tests.support.training_runs import assert_same_result, rows

# DropCov draws its masks from torch's random state; 45 steps, recorded in the middle of epoch 2 and in epoch 3.
OPTIONS = ["--pool", "dropcov", "--epochs", "3", "--landscape-every", "20", "--device", "cpu"]
FILES = ["checkpoint.pt", "config.json", "landscape.csv", "log.csv"]
FORCED = {
    "before there is a folder's configuration": ["before", "config.json", 1],
    "in the first epoch": ["step", 3],
    "while the first checkpoint is written": ["half", 1],
    "when it is written but not in its place": ["before", "checkpoint.pt", 1],
    "when the tables do not know of it yet": ["after", "checkpoint.pt", 1],
    "in the second epoch, after a recording": ["step", 7],
    "while the second checkpoint is written": ["half", 1],
    "between two epochs": ["after", "landscape.csv", 2],
    "when it is complete but for a table": ["before", "landscape.csv", 2],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of an uninterrupted run, one killed at every forced moment, one at random ones; how each child ended."""
    training_runs.needs_digits()
    folder = tmp_path_factory.mktemp("runs")
    moments = {
        "whole": [],
        "forced": list(FORCED.values()),
        "random": [["seconds", random.SystemRandom().uniform(0.2, 3.0)] for _ in range(2)],
    }
    scenarios = [
        {"arguments": [*OPTIONS, "--output", str(folder / name)], "moments": kills} for name, kills in moments.items()
    ]
    endings, _ = training_runs.run_scenarios(scenarios)
    return folder, dict(zip(moments, endings, strict=True)), moments


def test_an_uninterrupted_run_has_every_epoch_and_recording(runs):
    folder, endings, _ = runs
    assert endings["whole"] == [[0]]
    assert sorted(path.name for path in (folder / "whole").iterdir()) == FILES
    assert [row["epoch"] for row in rows(folder / "whole" / "log.csv")] == ["1", "2", "3"]
    assert [row["step"] for row in rows(folder / "whole" / "landscape.csv")] == ["20", "40"]


def test_killed_at_forced_moments(runs):
    folder, endings, _ = runs
    assert endings["forced"] == [[-signal.SIGKILL]] * len(FORCED) + [[0]], "every kill came, and then the end"
    assert_same_result(folder / "forced", folder / "whole")


def test_killed_at_random_moments(runs):
    folder, endings, moments = runs
    *killed, last = endings["random"]
    assert last == [0]
    # On a fast machine a run may be over before its moment; the other run of the same test was not.
    assert all(ending in ([-signal.SIGKILL], [0]) for ending in killed), moments["random"]
    assert_same_result(folder / "random", folder / "whole")


def killed_in_training(output):
    """Start the command and kill it after its first epoch; False if it ended before."""
    with subprocess.Popen(
        [sys.executable, "-m", "experiments", "train", *OPTIONS, "--output", str(output)],
        env=training_runs.environment(),
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + training_runs.TIMEOUT
        while not (output / "log.csv").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        return process.wait(60) == -signal.SIGKILL


def test_the_command_killed_from_outside_goes_on_in_another_process(runs, tmp_path):
    folder, _, _ = runs
    for attempt in range(3):  # this process may sleep for so long that training ends meanwhile
        output = tmp_path / str(attempt)
        if killed_in_training(output):
            break
    assert 1 <= len(rows(output / "log.csv")) < 3
    before = torch.get_rng_state()
    assert main(["train", "--resume", "--output", str(output)]) == 0, "all options are those of the folder"
    assert torch.equal(torch.get_rng_state(), before), "the command leaves the global random state alone"
    assert_same_result(output, folder / "whole")


def test_the_comparison_sees_other_masks(runs, tmp_path):
    """A run that had lost its random state would differ: the masks of DropCov come from it."""
    folder, _, _ = runs
    state = torch.load(folder / "whole" / "checkpoint.pt", weights_only=True)
    state["random"][0]["cpu"] = torch.manual_seed(1).get_state()
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(AssertionError, match="random"):
        training_runs.assert_identical(training_runs.checkpoint(tmp_path), training_runs.checkpoint(folder / "whole"))


def test_a_complete_run_is_resumed_to_nothing(runs, capsys):
    folder, _, _ = runs
    before = (folder / "whole" / "checkpoint.pt").read_bytes()
    assert main(["train", *OPTIONS, "--resume", "--output", str(folder / "whole")]) == 0
    assert "of the test images after the last epoch" in capsys.readouterr().out
    assert (folder / "whole" / "checkpoint.pt").read_bytes() == before


@pytest.mark.gpu
def test_on_a_gpu_with_scaled_float16_gradients(tmp_path, monkeypatch):
    """Interrupted in the second epoch: scale, mask and statistics go on as they would have."""
    training_runs.needs_digits()
    options = [*OPTIONS[:-1], "cuda", "--amp", "fp16"]
    assert main(["train", *options, "--output", str(tmp_path / "whole")]) == 0
    training_runs.interrupt(monkeypatch, step=20)
    assert main(["train", *options, "--output", str(tmp_path / "stopped")]) == 130
    monkeypatch.undo()
    assert main(["train", "--resume", "--output", str(tmp_path / "stopped")]) == 0
    assert_same_result(tmp_path / "stopped", tmp_path / "whole")
