"""What a run knows of its data: names of classes, their order, and which images; a resumed run must find the same."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from experiments.__main__ import main
from experiments.datasets import load_dataset
from experiments.training.dataset import describe_digits, describe_folder, difference
from tests.support import training_runs

TRAINING = Path(__file__).parents[2] / "docs" / "training.md"
SIZE = 64


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Make a folder of two classes of grey images, light and dark, and that of a run of one epoch on it."""
    pytest.importorskip("torchvision", reason="torchvision is not installed (extra: models)")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    root = tmp_path_factory.mktemp("classes")
    for part in ("train", "val"):
        for name, grey in (("dark ä", 10), ("light", 200)):
            (root / "data" / part / name).mkdir(parents=True)
            for index in range(4):
                # Large enough images of other sizes: as files they are of other sizes too.
                size = (SIZE + index, SIZE + grey)
                image.new("RGB", size, (grey, grey, grey + 10 * index)).save(
                    root / "data" / part / name / f"{index}.png"
                )
    assert train(root / "data", root / "run") == 0
    return root


def train(data, output, *options):
    arguments = ["--data", str(data), "--image-size", str(SIZE), "--batch-size", "4", "--workers", "0"]
    return main(["train", *arguments, "--epochs", "1", "--device", "cpu", "--output", str(output), *options])


@pytest.fixture
def run(finished, tmp_path):
    """Copy both, and tell the run where its data are now."""
    shutil.copytree(finished, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.json"
    config.write_text(config.read_text("utf-8").replace(str(finished), str(tmp_path / "copy")), "utf-8")
    moved = {"data": str(tmp_path / "copy" / "data")}
    change_checkpoint(tmp_path / "copy" / "run", lambda state: state["options"].update(moved))
    return tmp_path / "copy"


def change_checkpoint(folder, change):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "checkpoint.pt")


def resume(root):
    return main(["train", "--resume", "--workers", "0", "--output", str(root / "run")])


def test_config_and_checkpoint_have_the_names_in_the_order_of_the_outputs(finished):
    text = (finished / "run" / "config.json").read_text(encoding="utf-8")
    assert "dark ä" in text, "for a person to read"
    assert json.loads(text)["classes"] == ["dark ä", "light"]
    state = torch.load(finished / "run" / "checkpoint.pt", weights_only=True)
    assert state["classes"] == ["dark ä", "light"]
    assert list(state["dataset"]["listing"]) == ["train/dark ä", "train/light", "val/dark ä", "val/light"]


def test_the_digits_have_names_too(tmp_path):
    training_runs.needs_digits()
    assert main(["train", "--device", "cpu", "--pool", "avg", "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["classes"] == list("0123456789")
    digits = load_dataset("digits", torch.device("cpu"))
    described = describe_digits(digits)
    assert [text.split(",")[0] for text in described.values()] == ["449 images", "899 images"]
    digits.test.labels[0] += 1
    changed = describe_digits(digits)
    assert (changed["train"], changed["test"] == described["test"]) == (described["train"], False)


def test_the_lines_of_the_documentation_name_the_class_of_an_image(run, monkeypatch, capsys):
    section = TRAINING.read_text("utf-8").split("## Which class is which output")[1].split("\n## ")[0]
    lines = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    monkeypatch.chdir(run)
    Path("my-run").symlink_to("run")
    shutil.copy("data/val/light/0.png", "picture.jpg")
    for label, name in enumerate(["dark ä", "light"]):
        change_checkpoint(run / "run", lambda state, label=label: answer_always(state["network"], label))
        exec(compile(lines, "training.md", "exec"), {})
        assert capsys.readouterr().out == f"{name}\n"


def answer_always(network, label):
    network["fc.weight"].zero_()
    network["fc.bias"].zero_()[label] = 1


def test_unchanged_data_are_resumed_wherever_they_lie(run, capsys):
    assert resume(run) == 0
    assert "resumed after epoch 1" in capsys.readouterr().out


def rename_a_class(data, name="light"):
    for part in ("train", "val"):
        (data / part / name).rename(data / part / "zebra")


def rename_both_so_that_labels_are_swapped(data):
    for part in ("train", "val"):
        (data / part / "dark ä").rename(data / part / "z")
        (data / part / "light").rename(data / part / "dark ä")
        (data / part / "z").rename(data / part / "light")


def add_a_class(data):
    for part in ("train", "val"):
        shutil.copytree(data / part / "light", data / part / "middle")


def swap_two_images(data):
    one, other = (data / "train" / name / "0.png" for name in ("dark ä", "light"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def move_an_image(data):
    (data / "train" / "light" / "3.png").rename(data / "train" / "dark ä" / "4.png")


def rename_an_image(data):
    (data / "val" / "light" / "0.png").rename(data / "val" / "light" / "8.png")


FINGERPRINT = r"fingerprint \w{16}"
HAD = f"had 4 files, {FINGERPRINT}, and has"
CHANGES = {
    "a class renamed": (rename_a_class, "classes removed: light; added: zebra"),
    "labels swapped": (rename_both_so_that_labels_are_swapped, f"train/dark ä {HAD} 4 files"),
    "a class added": (add_a_class, "classes added: middle"),
    "an image added": (
        lambda data: shutil.copy(data / "val" / "light" / "0.png", data / "val" / "light" / "9.png"),
        f"val/light {HAD} 5 files, {FINGERPRINT}\n",
    ),
    "an image removed": (lambda data: (data / "val" / "light" / "0.png").unlink(), f"val/light {HAD} 3 files"),
    "an image renamed": (rename_an_image, f"val/light {HAD} 4 files"),
    "an image moved": (move_an_image, f"train/dark ä {HAD} 5 files, {FINGERPRINT}; train/light {HAD} 3 files"),
    "two images swapped": (swap_two_images, f"train/dark ä {HAD} 4 files, {FINGERPRINT}; train/light {HAD} 4 files"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_data_are_not_gone_on_with(name, run, capsys):
    change, message = CHANGES[name]
    change(run / "data")
    before = (run / "run" / "checkpoint.pt").read_bytes()
    assert resume(run) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(f"error: the data have changed since the run began: {message}", error)
    assert (run / "run" / "checkpoint.pt").read_bytes() == before


def test_names_that_were_changed_in_the_folder_of_the_run_are_refused(run, capsys):
    config = run / "run" / "config.json"
    config.write_text(config.read_text("utf-8").replace('"light"', '"zebra"'), "utf-8")
    rename_a_class(run / "data")
    assert resume(run) == 1
    assert "checkpoint.pt is of a run with other classes than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: (state.update(format=1), state.pop("classes")),
            "has format 1; this is format 2: train again in",
        ),
        (lambda state: state.pop("classes"), "is of a run with other classes than"),
        (lambda state: state["dataset"].pop("listing"), "is of a run with other dataset than"),
    ],
)
def test_a_checkpoint_without_names_is_refused(change, message, run, capsys):
    change_checkpoint(run / "run", change)
    assert resume(run) == 1
    assert message in capsys.readouterr().err


def test_a_folder_and_a_checkpoint_without_descriptions_are_refused(run, capsys):
    change_checkpoint(run / "run", lambda state: (state.pop("classes"), state.pop("dataset")))
    config = json.loads((run / "run" / "config.json").read_text("utf-8"))
    (run / "run" / "config.json").write_text(json.dumps({"options": config["options"]}))
    assert resume(run) == 1
    assert "does not say which classes and images it is of" in capsys.readouterr().err


def test_names_that_are_no_utf_8_are_kept(finished, tmp_path, capsys):
    """Those of folders too, which are printed and written."""
    name, root = os.fsdecode(b"caf\xe9"), tmp_path / os.fsdecode(b"r\xf4le")
    for part in ("train", "val"):
        shutil.copytree(finished / "data" / part, root / "data" / part)
        (root / "data" / part / "light").rename(root / "data" / part / name)
    assert train(root / "data", root / "run") == 0
    assert "r\\udcf4le/data: 8 training" in capsys.readouterr().out
    assert resume(root) == 0
    config = json.loads((root / "run" / "config.json").read_text("utf-8"))
    assert (config["options"]["data"], config["classes"]) == (str(root / "data"), [name, "dark ä"])
    assert torch.load(root / "run" / "checkpoint.pt", weights_only=True)["classes"] == [name, "dark ä"]
    rename_a_class(root / "data", name)
    assert resume(root) == 1
    assert "classes removed: caf\\udce9; added: zebra\n" in capsys.readouterr().err


def test_what_differs_is_named_in_part_where_it_is_much():
    before = {"classes": [str(number) for number in range(8)], "dataset": {"listing": {}}}
    assert difference(before, {**before, "classes": ["7"]}) == "classes removed: 0, 1, 2, 3, 4, and 2 more"
    assert difference(before, {**before, "classes": before["classes"][::-1]}).startswith(
        "the order of the classes was 0,"
    )
    assert difference(before, before) is None


def test_a_file_that_cannot_be_looked_at_is_described_all_the_same(tmp_path):
    samples = {"train": [(str(tmp_path / "train" / "a" / "gone.png"), 0)]}
    assert describe_folder(tmp_path, ["a"], samples)["train/a"].startswith("1 files, fingerprint ")
