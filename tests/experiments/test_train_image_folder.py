"""Training on a folder of images: the batches that it becomes, the ResNets, and a run that is interrupted."""

import pytest
import torch

from experiments.__main__ import main
from experiments.training.configuration import TrainingConfig
from experiments.training.distributed import Processes
from experiments.training.resnets import build_resnet
from experiments.training.tasks import load_task
from gcp_kernels.analysis import split
from gcp_kernels.nn import GCP, DropCov
from tests.support import training_runs

pytest.importorskip("torchvision", reason="torchvision is not installed (extra: models)")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from experiments.training.image_folder import DEVIATION, MEAN, FolderBatches, hashed_seed  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes, red and blue; seven training and three test images of each, 40x48, no two alike."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 7), ("val", 3)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 128, (40, 48, 3), dtype=torch.uint8, generator=generator)
                pixels[..., channel] += 127
                Image.frombytes("RGB", (48, 40), bytes(pixels.flatten().tolist())).save(folder / f"{index}.png")
    return root


def folder_batches(tree, *, workers=0, processes=Processes(), seed=3, batch_size=4):  # noqa: B008
    return FolderBatches(tree, batch_size, 32, seed, CPU, workers, processes)


def test_an_epoch_is_a_function_of_seed_epoch_and_index(tree):
    expected = list(folder_batches(tree).training(2))
    assert [tuple(images.shape) for images, _ in expected] == [(4, 3, 32, 32)] * 3 + [(2, 3, 32, 32)]
    before = torch.get_rng_state()
    with_workers = folder_batches(tree, workers=2)
    for _ in with_workers.training(1):
        pass
    training_runs.assert_identical([list(b) for b in with_workers.training(2)], [list(b) for b in expected])
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn from the training's random state"
    for other in (folder_batches(tree).training(1), folder_batches(tree, seed=4).training(2)):
        assert not torch.equal(next(iter(other))[0], expected[0][0])


def by_image(batches):
    return sorted((images[i].sum().item(), labels[i].item()) for images, labels in batches for i in range(len(labels)))


def test_an_image_is_augmented_in_another_way_in_every_epoch(tree):
    batches = folder_batches(tree)
    assert not {s for s, _ in by_image(batches.training(1))} & {s for s, _ in by_image(batches.training(2))}


def test_processes_share_every_image(tree):
    alone = folder_batches(tree)
    shares = [folder_batches(tree, processes=Processes(rank, 2, rank)) for rank in range(2)]
    assert by_image([batch for share in shares for batch in share.test()]) == by_image(alone.test())
    assert [share.test_images for share in shares] == [6, 6]
    assert by_image([batch for share in shares for batch in share.training(1)]) == by_image(alone.training(1))
    thirds = [folder_batches(tree, processes=Processes(rank, 3, rank), batch_size=6) for rank in range(3)]
    sizes = [[len(labels) for _, labels in third.training(1)] for third in thirds]
    assert sizes == [[2, 2]] * 3, "two of 14 images are left out, so that all processes take the same steps"
    assert thirds[0].images_per_epoch == 12


def test_a_test_image_is_scaled_cut_and_normalized(tree):
    images, labels = next(iter(folder_batches(tree).test()))
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1], "classes by name: blue, red"
    pixels = images * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert 0 <= pixels.min() < pixels.max() <= 1
    blue, red = pixels[:3].mean((0, 2, 3)), pixels[3:].mean((0, 2, 3))
    assert blue[2] > 0.7 > 0.3 > blue[0]
    assert red[0] > 0.7 > 0.3 > red[2]


def test_trees_that_are_none_are_refused(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*train with folders"):
        folder_batches(tmp_path)
    for name in ("train/red", "train/green", "val/red", "val/blue"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes((tree / "val" / "red" / "0.png").read_bytes())
    with pytest.raises(ValueError, match="must have the same classes; only in one of them: 'blue'"):
        folder_batches(tmp_path)


def test_seeds_are_hashed():
    seeds = {hashed_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert hashed_seed(1, 23) != hashed_seed(12, 3)


@pytest.mark.parametrize("pool", ["avg", "gcp", "dropcov", "power", "elementwise", "none"])
def test_resnets_with_every_pool(pool):
    before = torch.get_rng_state()
    network = build_resnet("resnet18", pool, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(network.conv1.weight, build_resnet("resnet18", pool, 2, seed=1).conv1.weight)
    assert network.fc.out_features == 2
    if pool == "dropcov":
        assert isinstance(network.avgpool, DropCov)
    elif pool != "avg":
        assert isinstance(network.avgpool, GCP)
        assert network.avgpool.normalization == ("isqrt" if pool == "gcp" else pool)
    with pytest.raises(ValueError, match="'resnet18', 'resnet34', 'resnet50', 'resnet101', got 'resnet152'"):
        build_resnet("resnet152", pool, 2, seed=1)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_resnet_is_cut_behind_its_first_convolution(arch, tree):
    options = {"data": str(tree), "arch": arch, "image_size": 32, "batch_size": 4, "device": "cpu"}
    task = load_task(TrainingConfig.from_options(options, processes=1), CPU, workers=0, processes=Processes())
    stem, rest = split(task.network.eval(), after=task.first_convolution)
    images, _ = next(iter(task.batches.test()))
    assert stem(images).shape == (6, 64, 16, 16)
    assert torch.equal(rest(stem(images)), task.network(images))


def train(tree, output, *options):
    arguments = ["--data", str(tree), "--image-size", "32", "--batch-size", "7", "--device", "cpu"]
    return main(["train", *arguments, "--pool", "dropcov", "--epochs", "2", "--output", str(output), *options])


def test_interrupted_it_goes_on_with_the_same_augmentation(tree, tmp_path, monkeypatch, capsys):
    """Two steps an epoch; the user interrupts in the second epoch, and goes on with other workers."""
    assert train(tree, tmp_path / "whole", "--workers", "0") == 0
    assert "14 training and 6 test images, 2 classes; resnet18, pool dropcov" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        training_runs.interrupt(patched, step=4)
        assert train(tree, tmp_path / "stopped", "--workers", "0") == 130
    assert f"interrupted; --output {tmp_path / 'stopped'} --resume goes on" in capsys.readouterr().err
    assert main(["train", "--resume", "--workers", "1", "--output", str(tmp_path / "stopped")]) == 0
    training_runs.assert_same_result(tmp_path / "stopped", tmp_path / "whole")
