"""Whatever replaces a run's checkpoint or configuration, ``--resume`` says so in one line, by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.__main__ import main
from tests.support import training_runs

MISSING = object()
State = dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of a run of one epoch."""
    training_runs.needs_digits()
    folder = tmp_path_factory.mktemp("runs") / "finished"
    options = ["--pool", "avg", "--epochs", "1", "--landscape-every", "10", "--device", "cpu"]
    assert main(["train", *options, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Make a copy to be damaged."""
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Resume, and give the exit code and the message, which is one line."""
    capsys.readouterr()
    code = main(["train", "--resume", "--output", str(folder)])
    captured = capsys.readouterr()
    message = captured.err.removesuffix("\n")
    assert "\n" not in message
    return code, message


def changed(state: State, path: tuple[Any, ...], value: object) -> State:
    """Make a copy with another value in one place, or without it."""
    state = copy.deepcopy(state)
    place = state
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return state


def test_a_changed_byte_is_found(folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resumed(folder, capsys) == (0, "")
    content = (finished / "checkpoint.pt").read_bytes()
    weight = torch.load(finished / "checkpoint.pt", weights_only=True)["network"]["0.0.weight"]
    position = content.index(weight.numpy().tobytes())
    damaged = bytearray(content)
    damaged[position + 3] ^= 1
    (folder / "checkpoint.pt").write_bytes(damaged)
    assert not torch.equal(torch.load(folder / "checkpoint.pt", weights_only=True)["network"]["0.0.weight"], weight)
    code, message = resumed(folder, capsys)
    assert code == 1
    assert f"{folder / 'checkpoint.pt'} cannot be read as a checkpoint: Bad CRC-32 for file" in message
    assert (folder / "log.csv").read_bytes() == (finished / "log.csv").read_bytes()


OTHERS = {"tensor": torch.ones(2), "list": [1], "nothing": None, "text": "x", "empty": {}}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_object_in_its_place(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(OTHERS[kind], folder / "checkpoint.pt")
    code, message = resumed(folder, capsys)
    assert code == 1
    expected = "has format None; this is format 2" if kind == "empty" else f"holds a {type(OTHERS[kind]).__name__} and"
    assert f"{folder / 'checkpoint.pt'} {expected}" in message


def test_a_folder_a_link_to_nothing_and_an_old_format_in_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of them is a run without a checkpoint, which would begin again."""
    path = folder / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert "has no checksums to verify it by" in resumed(folder, capsys)[1]
    path.unlink()
    path.symlink_to(folder / "nowhere.pt")
    assert "No such file or directory" in resumed(folder, capsys)[1]
    path.unlink()
    path.mkdir()
    assert resumed(folder, capsys)[1].endswith(f"{path} cannot be read as a checkpoint: it is a folder")


ENTRIES = ("format", "options", "history", "network", "optimizer", "schedule", "scaler", "random", "recorder")


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_is_missing_or_something_else(
    entry: str, folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    assert set(state) >= set(ENTRIES)
    for value in (MISSING, 5, torch.ones(2), None, []):
        torch.save(changed(state, (entry,), value), folder / "checkpoint.pt")
        code, message = resumed(folder, capsys)
        assert code == 1
        assert str(folder / "checkpoint.pt") in message
        assert entry in message


def of_another_network(state: State) -> State:
    return {**state, "network": nn.Linear(2, 2).state_dict()}


def of_another_optimizer(state: State) -> State:
    return {**state, "optimizer": torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()}


def in_double_precision(state: State) -> State:
    return {**state, "network": {name: tensor.double() for name, tensor in state["network"].items()}}


OF_ANOTHER = {
    of_another_network: "network lacks '0.0.weight'; network lacks '0.1.weight'; network lacks '0.1.bias'; and",
    of_another_optimizer: "optimizer.state lacks 0; ",
    in_double_precision: "network.0.0.weight is a tensor (32, 1, 3, 3) of float64, not a tensor (32, 1, 3, 3) of "
    "float32; ",
}
BUFFER = ("optimizer", "state", 3, "momentum_buffer")
INSIDE = [
    (("network", "0.0.weight"), torch.ones(2, 2), "network.0.0.weight is a tensor (2, 2) of float32, not a tensor"),
    (("network", "0.0.weight"), torch.ones(32, 1, 3, 3).to_sparse(), "torch.sparse_coo"),
    (("network", "0.0.weight"), torch.ones(32, 1, 3, 3, device="meta"), "meta tensor"),
    (("network", "extra"), torch.ones(1), "network has 'extra', of which this run knows nothing"),
    (BUFFER[:3], MISSING, "optimizer.state lacks 3"),
    (BUFFER, None, "optimizer.state.3.momentum_buffer is nothing, not a tensor"),
    (
        BUFFER,
        torch.ones(64, 32, 3, 3).half(),
        "optimizer.state.3.momentum_buffer is a tensor (64, 32, 3, 3) of fl",
    ),
    (("optimizer", "param_groups", 0, "params"), [0], "optimizer.param_groups[0].params is a list of 1, not a list of"),
    (("schedule",), {}, "schedule lacks 'base_lrs'"),
    (("schedule", "last_epoch"), "15", "schedule.last_epoch is a value of type str, not a value of type int"),
    (("random",), [], "random is a list of 0, not a list of 1"),
    (("random", 0, "cpu"), torch.zeros(5, dtype=torch.uint8), "random[0].cpu is a tensor (5,) of uint8"),
    (("random", 0, "cpu"), torch.zeros_like(torch.get_rng_state()), "Invalid mt19937 state"),
    (("history", 0), {}, "history[0] lacks 'epoch'"),
    (("history", 0, "epoch"), 2, "history must have epochs 1, 2, ... of 1, got [2]"),
    (("history", 0, "train_loss"), True, "history[0].train_loss is a value of type bool"),
    (("recorder", "steps"), 5, "steps must be several numbers, got 5"),
    (("recorder", "count"), -1, "count must be at least 0, got -1"),
    (("recorder", "records"), {}, "records must be a list, got dict"),
    (("recorder", "records", 0), {}, "a record must have a step and a landscape with beta, "),
    (("recorder", "records", 0, "step"), 0, "step must be at least 1, got 0"),
    (("recorder", "records", 0, "landscape", "losses"), [1.0], "losses of a record must have 50 numbers, got 1"),
    (("recorder", "records", 0, "landscape", "beta"), "x", "beta must be a number, got 'x'"),
    (("options", "lr"), torch.ones(2), "is of a run with other options than"),
]


def test_what_does_not_fit_is_named_and_not_all_of_it(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    cases = [(change(state), expected) for change, expected in OF_ANOTHER.items()]
    cases += [(changed(state, path, value), expected) for path, value, expected in INSIDE]
    for damaged, expected in cases:
        torch.save(damaged, folder / "checkpoint.pt")
        code, message = resumed(folder, capsys)
        assert code == 1
        assert expected in message
        assert str(folder / "checkpoint.pt") in message
        assert len(message) < 1000


# Values that JSON can have, and where they are no nonsense.
NONSENSE = ["x", "", -1, 0.5, float("nan"), float("inf"), 10**40, True, None, [], {}]
SENSE = {
    "data": ["x", ""],  # folders, which are not there
    "arch": [None], "image_size": [None], "amp": [None],
    "epochs": [10**40], "lr": [0.5, 10**40], "momentum": [0.5], "weight_decay": [0.5, 10**40],
    "batch_size": [10**40], "landscape_every": [None, 10**40], "compile": [True],
}  # fmt: skip


def test_every_value_of_the_configuration_is_checked_by_name(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert set(SENSE) < set(config["options"])
    for name in config["options"]:
        for value in NONSENSE:
            if repr(value) in map(repr, SENSE.get(name, [])):
                continue
            (folder / "config.json").write_text(json.dumps(changed(config, ("options", name), value)))
            code, message = resumed(folder, capsys)
            assert code == 2, (name, value, message)
            assert f" {name} " in message
            assert "another version" not in message


def test_a_folder_of_images_that_is_no_longer_there_is_named(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((finished / "config.json").read_text())
    config["options"].update(data="/nowhere", arch="resnet18", image_size=None)
    (folder / "config.json").write_text(json.dumps(config))
    assert "image_size must be an int, got None" in resumed(folder, capsys)[1]
    config["options"]["image_size"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    assert "there is no /nowhere/train" in resumed(folder, capsys)[1]


@pytest.mark.parametrize(
    "text", ["[1]", "5", "null", '{"options": []}', "{}", "[" * 100000, "", "\0", '{"options": {"a": 1}}']
)
def test_a_configuration_of_something_else(text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "config.json").write_text(text)
    code, message = resumed(folder, capsys)
    assert code == 2
    assert "config" in message or "the saved options are of another version" in message
