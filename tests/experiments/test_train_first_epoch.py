"""A run that ends before its first epoch is complete holds nothing of worth: it begins again, however it is asked."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from experiments.__main__ import main
from experiments.commands import train
from experiments.running.folder_lock import lock, unlock
from tests.support import training_runs

OPTIONS = ["--device", "cpu", "--pool", "avg", "--epochs", "1"]


@pytest.fixture
def data(tmp_path):
    """Make a folder of two classes of four images, of which one in each part is damaged."""
    pytest.importorskip("torchvision", reason="torchvision is not installed (extra: models)")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for part in ("train", "val"):
        for name, grey in (("dark", 10), ("light", 200)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                image.new("RGB", (64 + index, 64), (grey, grey, 10 * index)).save(folder / f"{index}.png")
    damaged = tmp_path / "data" / "train" / "dark" / "9.png"
    damaged.write_bytes((tmp_path / "data" / "train" / "dark" / "0.png").read_bytes()[:60])
    return tmp_path / "data"


def run(folder, *options):
    return main(["train", *OPTIONS, "--output", str(folder), *options])


def of_images(data):
    return ["--data", str(data), "--image-size", "64", "--batch-size", "4", "--workers", "0"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def failed(tmp_path, capsys):
    """Make the folder of a run of the digits whose loss was not finite in its first epoch."""
    training_runs.needs_digits()
    assert run(tmp_path / "run", "--lr", "1e30") == 1
    assert "in epoch 1" in capsys.readouterr().err
    assert names(tmp_path / "run") == ["config.json"]
    return tmp_path / "run"


@pytest.mark.parametrize("again", [[], ["--resume"]], ids=["the same command", "with --resume"])
def test_without_the_damaged_image_it_begins_again(again, data, tmp_path, capsys):
    assert run(tmp_path / "run", *of_images(data)) == 1
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    (data / "train" / "dark" / "9.png").unlink()
    assert run(tmp_path / "run", *of_images(data), *again) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (before["dataset"]["training_images"], config["dataset"]["training_images"]) == (9, 8)
    assert config["dataset"]["listing"]["train/dark"].startswith("4 files")
    assert config["options"] == before["options"]
    assert main(["train", "--resume", "--workers", "0", "--output", str(tmp_path / "run")]) == 0, (
        "nor is it refused later"
    )


def test_resumed_it_has_the_result_of_a_run_that_nothing_happened_to(data, tmp_path):
    """Neither the failure nor the data of before are in it."""
    assert run(tmp_path / "run", *of_images(data)) == 1
    (data / "train" / "dark" / "9.png").unlink()
    assert run(tmp_path / "whole", *of_images(data)) == 0
    assert main(["train", "--resume", "--workers", "0", "--output", str(tmp_path / "run")]) == 0
    training_runs.assert_same_result(tmp_path / "run", tmp_path / "whole")


def test_after_a_loss_that_is_not_finite_other_options_begin_again(failed):
    assert run(failed, "--lr", "0.1") == 0
    assert json.loads((failed / "config.json").read_text())["options"]["lr"] == 0.1
    assert len(training_runs.rows(failed / "log.csv")) == 1


def test_with_resume_the_options_are_the_saved_ones_and_the_error_says_how_to_have_others(failed, capsys):
    assert run(failed, "--lr", "0.1", "--resume") == 2
    error = capsys.readouterr().err
    assert (
        "lr is 1e+30 in the saved run, not 0.1; no epoch is complete: without --resume it begins again, with" in error
    )


def test_interrupted_in_the_first_epoch_it_says_so(tmp_path, monkeypatch, capsys):
    training_runs.needs_digits()
    with monkeypatch.context() as patched:
        training_runs.interrupt(patched, step=2)
        assert run(tmp_path / "run") == 130
    assert "error: interrupted; no epoch is complete: the same command begins again\n" in capsys.readouterr().err
    assert run(tmp_path / "run") == 0
    assert run(tmp_path / "run") == 2, "now it has an epoch"
    assert "is not empty; go on with --resume, or give another folder" in capsys.readouterr().err


def test_killed_between_the_folder_and_its_configuration(tmp_path, capsys):
    training_runs.needs_digits()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.partial").write_text("{")
    assert run(tmp_path / "run", "--resume") == 2
    assert "it has no config.json; start without --resume" in capsys.readouterr().err
    assert run(tmp_path / "run") == 0
    assert names(tmp_path / "run") == ["checkpoint.pt", "config.json", "log.csv"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"options": 3}', "\udcff"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_damaged_configuration_says_what_to_do(content, resume, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(content, errors="surrogateescape")
    assert run(tmp_path / "run", *resume) == 2
    unreadable, other = (
        r"cannot be read: .*; empty the folder, or give another one",
        "is not the configuration .*; give another folder",
    )
    assert re.search(rf"config\.json ({unreadable}|{other})\n", capsys.readouterr().err)
    assert names(tmp_path / "run") == ["config.json"]


def test_the_configuration_of_something_else_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert run(tmp_path) == 2
    assert "config.json is not the configuration of a training run: it has no options" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'


def test_a_log_without_its_checkpoint_is_not_overwritten(failed, capsys):
    """A checkpoint is large, and may have been moved to another place."""
    assert run(failed) == 0
    (failed / "checkpoint.pt").unlink()
    before = (failed / "log.csv").read_bytes()
    assert run(failed) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(failed, "--resume") == 1
    assert "checkpoint.pt is gone" in capsys.readouterr().err
    (failed / "config.json").unlink()
    assert run(failed, "--resume") == 2
    assert "it has no config.json; restore it" in capsys.readouterr().err
    assert (failed / "log.csv").read_bytes() == before


@pytest.mark.parametrize("again", [[], ["--resume"]], ids=["the same command", "with --resume"])
def test_while_a_process_trains_in_a_folder_another_does_not(again, failed, capsys):
    before = (failed / "config.json").read_bytes()
    take = f"fcntl.flock(os.open({str(failed)!r}, os.O_RDONLY), fcntl.LOCK_EX)"
    with subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, os; {take}; print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        holder.stdout.readline()
        assert run(failed, *again) == 1
        assert f"another process trains in {failed}; give another folder" in capsys.readouterr().err
        assert (failed / "config.json").read_bytes() == before
        holder.kill()
    assert run(failed, "--lr", "0.1") == 0, "a process that is gone keeps nothing"


def test_tables_of_a_run_without_an_epoch_are_not_those_of_the_next(failed):
    (failed / "damaged.csv").write_text("image,reason\ngone.png,cannot be decoded\n")
    assert run(failed, "--lr", "0.1") == 0
    assert names(failed) == ["checkpoint.pt", "config.json", "log.csv"]


def test_a_run_that_began_and_ended_meanwhile_is_not_overwritten(failed, monkeypatch, capsys):
    """Between the first look at the folder and the lock, images are listed and decoded, which may take hours."""
    build = train.TrainingRun

    def slow(*arguments):
        monkeypatch.setattr(train, "TrainingRun", build)
        assert run(failed, "--lr", "0.1") == 0
        return build(*arguments)

    monkeypatch.setattr(train, "TrainingRun", slow)
    assert run(failed, "--lr", "0.2") == 1
    assert "is not empty; go on with --resume" in capsys.readouterr().err
    assert json.loads((failed / "config.json").read_text())["options"]["lr"] == 0.1


def test_a_process_that_reads_images_does_not_keep_the_folder(tmp_path):
    """It outlives for seconds the training that was killed."""
    started, starts = os.pipe()
    ended, ends = os.pipe()
    training = os.fork()
    if training == 0:
        lock(tmp_path)
        if os.fork() == 0:
            os.write(starts, b"1")
            os.close(ends)
            os.read(ended, 1)  # until the test closes the other end
            os._exit(0)
        signal.pause()
    os.read(started, 1)
    with pytest.raises(BlockingIOError):
        lock(tmp_path)
    os.kill(training, signal.SIGKILL)
    os.waitpid(training, 0)
    try:
        unlock(lock(tmp_path))
    finally:
        for descriptor in (started, starts, ended, ends):
            os.close(descriptor)


def test_where_a_file_system_has_no_locks_there_is_none(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock(tmp_path) is None


@pytest.mark.parametrize("place", ["file/run", "file/much/deeper/run", "file", "link", "link/run"])
def test_a_folder_that_cannot_be_made_is_said_before_any_work(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "TrainingRun", lambda *arguments: pytest.fail("work was started"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert run(tmp_path / place) == 2
    assert f"{tmp_path / place.split('/')[0]} is not a folder\n" in capsys.readouterr().err
    assert names(tmp_path) == ["file", "link"]


@pytest.mark.parametrize("place", [".", "run"])
def test_a_folder_that_may_not_be_written_to_is_said_before_any_work(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "TrainingRun", lambda *arguments: pytest.fail("work was started"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # who runs the tests may be allowed everything
    assert run(tmp_path / place) == 2
    assert f"{tmp_path} is a folder that may not be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: shutil.rmtree(data / "val"), 2),
        (lambda data: shutil.rmtree(data / "val" / "dark"), 2),
        (lambda data: [path.unlink() for path in (data / "val" / "dark").iterdir()], 2),
    ],
    ids=["no val", "a class only in train", "an empty class"],
)
def test_what_fails_before_training_leaves_no_folder(spoil, code, data, tmp_path):
    spoil(data)
    assert run(tmp_path / "made" / "run", *of_images(data)) == code
    assert not (tmp_path / "made").exists()
