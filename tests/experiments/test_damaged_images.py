"""Training on folders with images that cannot be decoded: what the user reads, and going on without them."""

import pytest
import torch

from experiments.__main__ import main
from experiments.commands import train as train_command
from experiments.datasets.image_decoding import DamagedImageError, ImageError
from experiments.training import damaged_images
from experiments.training.distributed import Processes
from experiments.training.run_folder import RunFolder
from tests.support import training_runs
from tests.support.training_runs import rows

pytest.importorskip("torchvision", reason="torchvision is not installed (extra: models)")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from experiments.training.damaged_images import find_damaged  # noqa: E402
from experiments.training.image_folder import FolderBatches  # noqa: E402

CPU = torch.device("cpu")
DAMAGED = ("train/cat/3.png", "train/dog/0.png", "val/dog/1.png")


@pytest.fixture
def tree(tmp_path):
    """Two classes; six training and three test images of each, no two alike."""
    root = tmp_path / "images"
    for part, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                Image.effect_noise((40, 36), 90).save(root / part / name / f"{index}.png")
    return root


def damage(tree, *names):
    for name in names or DAMAGED:
        content = (tree / name).read_bytes()
        (tree / name).write_bytes(content[: len(content) // 2])


def train(tree, output, *options):
    arguments = ["--data", str(tree), "--image-size", "32", "--batch-size", "4", "--device", "cpu", "--pool", "avg"]
    return main(["train", *arguments, "--epochs", "1", "--workers", "0", "--output", str(output), *options])


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("name", ["train/dog/0.png", "val/dog/1.png"])
def test_a_damaged_image_ends_training_by_its_name_in_one_line(name, workers, tree, tmp_path, capsys):
    damage(tree, name)
    assert train(tree, tmp_path / "run", "--workers", workers) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"experiments train: error: {tree / name} cannot be decoded: OSError: ")
    assert line.endswith("or begin in another folder with --skip-damaged, which leaves it out")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_without_a_known_range_ends_training(workers, tree, tmp_path, capsys):
    """Nothing is wrong with it: it is not left out as damaged either."""
    sorted((tree / "train" / "cat").iterdir())[0].unlink()  # as many images as before
    Image.new("F", (40, 36), 0.5).save(tree / "train" / "cat" / "6.tif")
    for options in ([], ["--skip-damaged"]):
        assert train(tree, tmp_path / f"run {options}", "--workers", str(workers), *options) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tree / 'train/cat/6.tif'} has pixels whose black and white are not known, floats" in line
    assert not (tmp_path / "run ['--skip-damaged']").exists(), "it was found before training"


def test_training_goes_on_as_if_damaged_images_were_not_there(tree, tmp_path, monkeypatch, capsys):
    damage(tree)
    (tree / "train" / "cat" / "vanished.png").symlink_to("nowhere.png")
    damaged = sorted([*DAMAGED, "train/cat/vanished.png"])
    assert train(tree, tmp_path / "run", "--skip-damaged") == 0
    output = capsys.readouterr().out
    assert output.startswith(f"decoding every image of {tree} once")
    assert ": 10 training and 5 test images, 2 classes" in output
    assert f"\nimages left out as damaged: 4, in {tmp_path / 'run' / 'damaged.csv'}\n" in output
    for name in damaged:
        assert f"\n  {tree / name} cannot be decoded: " in output
    table = rows(tmp_path / "run" / "damaged.csv")
    assert [row["image"] for row in table] == [str(tree / name) for name in damaged]
    assert table[1]["reason"] == "cannot be decoded: No such file or directory"

    with monkeypatch.context() as patched:
        training_runs.interrupt(patched, step=2)
        assert train(tree, tmp_path / "resumed", "--skip-damaged", "--workers", "1") == 130
    assert main(["train", "--resume", "--workers", "0", "--output", str(tmp_path / "resumed")]) == 0
    training_runs.assert_same_result(tmp_path / "resumed", tmp_path / "run")
    assert rows(tmp_path / "resumed" / "damaged.csv") == table

    for name in damaged:
        (tree / name).unlink()
    assert train(tree, tmp_path / "without", "--skip-damaged") == 0
    assert "damaged:" not in capsys.readouterr().out.split("decoding every image")[-1]
    training_runs.assert_same_result(tmp_path / "without", tmp_path / "run")
    assert rows(tmp_path / "without" / "damaged.csv") == []


def test_what_becomes_damaged_later_is_changed_data(tree, tmp_path, capsys):
    assert train(tree, tmp_path / "run", "--skip-damaged") == 0
    damage(tree)
    assert train(tree, tmp_path / "run", "--skip-damaged", "--resume") == 1
    assert "the data have changed" in capsys.readouterr().err


def test_leaving_out_is_an_option_of_the_run(tree, tmp_path, capsys):
    assert train(tree, tmp_path / "run") == 0
    assert train(tree, tmp_path / "run", "--skip-damaged", "--resume") == 2
    assert "skip_damaged is False in the saved run, not True" in capsys.readouterr().err
    assert not (tmp_path / "run" / "damaged.csv").exists()


def test_the_digits_have_no_damaged_images(tmp_path, capsys):
    assert main(["train", "--skip-damaged", "--device", "cpu", "--output", str(tmp_path / "run")]) == 2
    assert "skip_damaged is for folders of images" in capsys.readouterr().err


def test_a_class_with_none_but_damaged_images_is_named(tree, tmp_path, capsys):
    damage(tree, *(f"val/cat/{index}.png" for index in range(3)))
    assert train(tree, tmp_path / "run", "--skip-damaged") == 2
    assert f"'cat' in {tree / 'val'} has no image that can be decoded" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def batches(tree, *, skip_damaged):
    return FolderBatches(tree, 4, 32, 0, CPU, 0, Processes(), skip_damaged=skip_damaged)


def test_what_is_damaged_after_it_was_tried_is_an_error(tree):
    found = batches(tree, skip_damaged=True)
    assert found.damaged == []
    assert batches(tree, skip_damaged=False).damaged is None
    (tree / "val" / "cat" / "0.png").unlink()
    with pytest.raises(DamagedImageError, match="No such file or directory; it could be when all images"):
        list(found.test())


def test_every_process_leaves_out_the_same(tree, monkeypatch):
    """Each of two decodes its share, and hears of the other one's."""
    damage(tree)
    samples = [(str(path), 0) for path in sorted(tree.rglob("*.png"))]
    alone = [error.path for error in find_damaged(samples, 0, Processes())]
    assert alone == [str(tree / name) for name in DAMAGED]
    shares, processes = [], [Processes(rank, 2, rank) for rank in range(2)]
    monkeypatch.setattr(Processes, "gather", lambda self, value: [shares.append(value) or value])
    for process in processes:
        find_damaged(samples, 0, process)
    assert sorted(error.path for share in shares for error in share) == alone
    assert 0 < len(shares[0]) < len(alone)
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, shares[1 - self.rank]])
    for process in processes:
        assert [error.path for error in find_damaged(samples, 0, process)] == alone
    shares[1] = [ImageError(samples[-1][0], "has no range")]
    with pytest.raises(ImageError, match="has no range"):
        find_damaged(samples, 0, processes[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_long_decoding_says_how_far_it_is(workers, tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(damaged_images, "CHUNK", 5)
    reports = []
    samples = [(str(path), 0) for path in sorted(tree.rglob("*.png"))]
    find_damaged(samples, workers, Processes(), lambda *report: reports.append(report))
    assert reports == [(5, 18), (10, 18), (15, 18), (18, 18)]
    monkeypatch.setattr(train_command, "SECONDS_BETWEEN_REPORTS", 0)
    assert train(tree, tmp_path / "run", "--skip-damaged") == 0
    assert "to leave out what is damaged\n5 of 18\n10 of 18\n15 of 18\n18 of 18\n" in capsys.readouterr().out


def test_the_table_has_names_that_are_no_text(tmp_path):
    error = DamagedImageError("cat/\udcff.png", "cannot be decoded: OSError: broken")
    RunFolder(tmp_path).write_damaged([error])
    assert rows(tmp_path / "damaged.csv") == [{"image": r"cat/\xff.png", "reason": error.reason}]


def test_skipped_files_and_folders_are_said_once(tree, tmp_path, capsys):
    (tree / "train" / "cat" / "list.txt").touch()
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    (tree / "val" / "dog" / "new.avif").touch()
    assert train(tree, tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert output.count("files skipped: 1 .avif, 1 .txt\nfolders left out: 1 .ipynb_checkpoints\n") == 1
    assert "12 training and 6 test images, 2 classes" in output


def test_a_link_to_a_parent_ends_the_command_before_training(tree, tmp_path, capsys):
    (tree / "train" / "cat" / "loop").symlink_to("..")
    assert train(tree, tmp_path / "run") == 2
    assert (
        f"{tree / 'train/cat/loop'} is a link to {tree / 'train'}, a folder that it lies in" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
