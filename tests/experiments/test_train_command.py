"""``experiments train`` in one process: what it writes, what it refuses and how, mixed precision, compilation."""

import io
import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from experiments.__main__ import main
from experiments.commands import train
from experiments.datasets import load_dataset
from experiments.training import (
    POOLS,
    accuracy,
    build_network,
    learning_rate_factor,
    tasks,
)
from gcp_kernels.commands.argument_types import number_from
from gcp_kernels.commands.atomic_files import write_atomically
from tests.support import training_runs
from tests.support.training_runs import rows


def run(folder, *options):
    return main(["train", "--device", "cpu", "--output", str(folder), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Make the folder of a run of two epochs with average pooling."""
    training_runs.needs_digits()
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(folder, "--pool", "avg", "--epochs", "2", "--schedule", "adju", "--lr", "0.2") == 0
    return folder


@pytest.fixture
def few_digits(monkeypatch):
    """Bfloat16 is slow on a CPU."""
    training_runs.needs_digits()
    digits = load_dataset("digits", torch.device("cpu"))
    few = replace(digits, train=digits.train.first(40), test=digits.test.first(40))
    monkeypatch.setattr(tasks, "load_dataset", lambda name, device: few)


def test_the_folder_has_options_checkpoint_and_log(finished):
    assert sorted(path.name for path in finished.iterdir()) == ["checkpoint.pt", "config.json", "log.csv"]
    config = json.loads((finished / "config.json").read_text())
    assert config["options"]["pool"] == "avg"
    assert config["options"]["lr"] == 0.2
    counts = {name: count for name, count in config["dataset"].items() if name != "listing"}
    assert counts == {"training_images": 449, "test_images": 899, "classes": 10}
    table = rows(finished / "log.csv")
    assert list(table[0]) == ["epoch", "learning_rate", "train_loss", "test_accuracy", "seconds"]
    for number, row in enumerate(table, start=1):
        assert int(row["epoch"]) == number
        assert float(row["learning_rate"]) == 0.2 * learning_rate_factor("adju", number, 2)
        assert 0 < float(row["train_loss"]) < 10
        assert float(row["seconds"]) > 0


def test_the_accuracy_is_that_of_the_network_in_the_checkpoint(finished):
    network = build_network("avg", seed=99)
    network.load_state_dict(torch.load(finished / "checkpoint.pt", weights_only=True)["network"])
    digits = load_dataset("digits", torch.device("cpu"))
    measured = accuracy(network, digits.test)
    assert rows(finished / "log.csv")[-1]["test_accuracy"] == str(measured)


def test_a_line_for_each_epoch_is_printed(finished, tmp_path, capsys):
    assert run(tmp_path / "run", "--pool", "avg", "--epochs", "1") == 0
    captured = capsys.readouterr()
    assert "449 training and 899 test images, 10 classes; small CNN, pool avg" in captured.out
    (line,) = re.findall(r"^ +1 +0\.100000 +\d+\.\d{5} +(\d+\.\d\d) % +\d+\.\d\d$", captured.out, flags=re.MULTILINE)
    assert f"{line} % of the test images after the last epoch; all is in {tmp_path / 'run'}" in captured.out
    assert captured.err == "", "no progress bar where there is no terminal"


def test_a_terminal_sees_a_progress_bar(tmp_path, monkeypatch):
    training_runs.needs_digits()
    pytest.importorskip("tqdm", reason="tqdm is not installed (extra: demo)")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(tmp_path / "run", "--pool", "avg", "--epochs", "1") == 0
    assert re.search(r"\d+/15 \[", terminal.getvalue())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pool", "max"], "invalid choice: 'max'"),
        (["--schedule", "cosine"], "invalid choice: 'cosine'"),
        (["--epochs", "0"], "at least 1, got '0'"),
        (["--lr", "0"], "must be a number above 0 and finite, got '0'"),
        (["--lr", "nan"], "above 0 and finite, got 'nan'"),
        (["--momentum", "1"], "must be a number of at least 0 and below 1, got '1'"),
        (["--weight-decay", "-1"], "of at least 0 and finite, got '-1'"),
        (["--device", "gpu"], "must be cpu, cuda or cuda:N, got 'gpu'"),
        (["--amp", "fp8"], "invalid choice: 'fp8'"),
        (["--landscape-every", "0"], "at least 1, got '0'"),
    ],
)
def test_wrong_values_are_refused(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        run(tmp_path / "run", *options)
    assert ending.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "resnet18"], "arch is for folders of images; the digits have a small CNN and 8x8 pixels"),
        (["--image-size", "32"], "image_size is for folders of images"),
        (["--workers", "2"], "--workers is for folders of images"),
        (["--amp", "fp16"], "amp must be 'bf16' or None on a cpu device, got 'fp16', which needs a GPU"),
        (["--data", "/nowhere/images"], "there is no /nowhere/images/train with folders"),
        (["--resume"], "there is nothing to resume in"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_work(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "TrainingRun", lambda *arguments: pytest.fail("work was started"))
    assert run(tmp_path / "run", *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "run").exists()


def test_a_batch_divides_among_the_processes(tmp_path, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run(tmp_path / "run", "--batch-size", "32") == 2
    assert "batch_size must be a multiple of the number of processes, 3, got 32" in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    assert run(tmp_path / "run") == 2
    assert "as torchrun sets them, or all unset; got 'RANK'" in capsys.readouterr().err


def test_a_used_folder_is_not_overwritten(finished, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert run(finished) == 2
    assert f"{finished} is not empty; go on with --resume, or give another folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    (tmp_path / "notes.txt").write_text("mine")
    assert run(tmp_path) == 2
    assert "is not empty; give another folder" in capsys.readouterr().err
    assert run(tmp_path / "notes.txt") == 2
    assert "is not a folder" in capsys.readouterr().err


def test_resuming_with_other_options_names_them_all(finished, capsys, monkeypatch):
    assert run(finished, "--resume", "--pool", "gcp", "--epochs", "2", "--batch-size", "64") == 2
    error = capsys.readouterr().err
    assert "a resumed run keeps its options: pool is 'avg' in the saved run, not 'gcp'; batch_size is 30" in error
    assert "epochs" not in error
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run(finished, "--resume") == 2
    assert "processes is 1 in the saved run, not 2" in capsys.readouterr().err


def test_a_process_that_fails_alone_says_why(tmp_path, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert run(tmp_path / "run", "--data", str(tmp_path / "nowhere")) == 2
    assert "error in process 1: " in capsys.readouterr().err


def copy_of(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_damaged_folder_is_named(finished, tmp_path, capsys):
    damaged = copy_of(finished, tmp_path / "damaged")
    for content in ((finished / "checkpoint.pt").read_bytes()[:5000], b"hello\n"):
        (damaged / "checkpoint.pt").write_bytes(content)
        assert run(damaged, "--resume") == 1
        assert f"{damaged / 'checkpoint.pt'} cannot be read" in capsys.readouterr().err

    changed = copy_of(finished, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    config["options"]["seed"] = 7
    (changed / "config.json").write_text(json.dumps(config))
    assert run(changed, "--resume") == 1
    assert "is of a run with other options" in capsys.readouterr().err
    del config["options"]["seed"]
    (changed / "config.json").write_text(json.dumps(config))
    assert run(changed, "--resume") == 2
    assert "the saved options are of another version: seed" in capsys.readouterr().err
    (changed / "config.json").write_text("{")
    assert run(changed, "--resume") == 2
    assert "config.json cannot be read" in capsys.readouterr().err


def test_a_device_that_is_gone_is_named(finished, tmp_path, capsys):
    moved = copy_of(finished, tmp_path / "moved")
    config = json.loads((moved / "config.json").read_text())
    config["options"]["device"] = "cuda:99"
    (moved / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", "--output", str(moved)]) == 2
    assert "'cuda:99' is not here: torch sees" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_there(few_digits, tmp_path, capsys, monkeypatch):
    saved = []

    def save(state, file):
        saved.append(state)
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    assert run(tmp_path / "run", "--pool", "avg", "--epochs", "1") == 1
    assert len(saved) == 1
    assert "checkpoint.pt cannot be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_loss_that_is_not_finite_ends_training(tmp_path, capsys):
    training_runs.needs_digits()
    assert run(tmp_path / "run", "--pool", "avg", "--lr", "1e30") == 1
    assert re.search(r"the training loss is (nan|inf) in epoch 1, step \d+\n", capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(train.importlib, "import_module", absent)
    assert run(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "scikit-learn (No module named 'sklearn.datasets')" in error
    assert 'pip install --no-build-isolation --editable ".[demo,models]" in a checkout' in error


@pytest.mark.parametrize("pool", POOLS)
def test_every_pool_trains_in_bfloat16(pool, few_digits, tmp_path):
    """The rounding of bfloat16 shows in the loss, and is small; parameters are float32."""
    losses = []
    for name, options in {"plain": [], "amp": ["--amp"]}.items():
        assert run(tmp_path / name, "--pool", pool, "--epochs", "1", "--lr", "1e-6", *options) == 0
        losses.append(float(rows(tmp_path / name / "log.csv")[0]["train_loss"]))
    assert 0 < abs(losses[0] - losses[1]) < 2**-6 * losses[0]
    state = torch.load(tmp_path / "amp" / "checkpoint.pt", weights_only=True)
    assert {parameter.dtype for parameter in state["network"].values()} == {torch.float32, torch.int64}


def test_a_compiled_network_trains_the_same_parameters(few_digits, tmp_path, monkeypatch):
    compiled = []
    compile_with = torch.compile

    def without_code_generation(module):
        compiled.append(module)
        return compile_with(module, backend="eager", fullgraph=True)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", without_code_generation)
        assert run(tmp_path / "compiled", "--epochs", "2", "--compile", "--landscape-every", "3") == 0
    assert len(compiled) == 1
    assert run(tmp_path / "eager", "--epochs", "2", "--landscape-every", "3") == 0
    states = [training_runs.checkpoint(tmp_path / name) for name in ("compiled", "eager")]
    for state in states:
        state["options"].pop("compile")
    training_runs.assert_identical(*states)


def test_numbers_have_limits():
    assert number_from(0)("0") == 0
    assert number_from(0, below=1)("0.999") == 0.999
    assert number_from(0, above=True)("1e-3") == 1e-3


def test_a_file_that_cannot_be_completed_is_not_begun(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fails(file):
        file.write(b"half of the n")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, fails)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]
