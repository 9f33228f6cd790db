"""Classifiers, detectors on their trunks, and their training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.datasets import Part, load_dataset
from experiments.training import NonFiniteLossError
from experiments.transfer.detectors import (
    CHANNELS,
    DETECTORS,
    LEVELS,
    build_classifier,
    build_detector,
    detect,
    images_of,
    targets_of,
)
from experiments.transfer.experiment import CHOOSING, CLASSIFIER, choose_classifier, choose_detectors, train_and_measure
from experiments.transfer.runs import run_all, versions_of
from experiments.transfer.scenes import Layout, draw_scenes
from experiments.transfer.settings import DATA, RANDOM, Settings
from experiments.transfer.training import in_random_order, single_digits, train
from gcp_kernels.integrations import backbone_state_dict
from tests.support.torchvision_stand_in import WITHOUT_OPERATORS

with_operators = pytest.mark.skipif(bool(WITHOUT_OPERATORS), reason=WITHOUT_OPERATORS)
DIGITS = Part(torch.ones(10, 1, 28, 28), torch.arange(10))
LAYOUT = Layout(64, (2, 3), (20, 30))


def test_classifiers_of_a_seed_begin_with_one_trunk_and_differ_in_the_pooling_only() -> None:
    pytest.importorskip("torchvision")
    state = torch.get_rng_state()
    networks = {pool: build_classifier(pool, 10, 8, seed=3) for pool in ("avg", "gcp", "dropcov")}
    other = backbone_state_dict(build_classifier("avg", 10, 8, seed=4))
    assert torch.equal(state, torch.get_rng_state())
    trunk = backbone_state_dict(networks["avg"])
    images = torch.rand(2, 3, 64, 64)
    for network in networks.values():
        assert network.eval()(images).shape == (2, 10)
        own = backbone_state_dict(network)
        assert list(own) == list(trunk)
        assert all(torch.equal(own[name], tensor) for name, tensor in trunk.items())
        assert network.get_submodule("layer4")(torch.rand(1, 256, 4, 4)).shape == (1, 512, 4, 4)
    assert not torch.equal(other["conv1.weight"], trunk["conv1.weight"])
    with pytest.raises(ValueError, match="pool must be one of 'avg', 'gcp', 'dropcov', got 'power'"):
        build_classifier("power", 10, 8, 0)


@with_operators
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_has_the_trunk_that_it_is_given_and_learns(kind: str) -> None:
    classifier = build_classifier("gcp", 10, 8, seed=3)
    with torch.no_grad():
        classifier(torch.rand(4, 3, 64, 64))  # moves the statistics of the batch normalisations
    trunk = backbone_state_dict(classifier)
    detector = build_detector(kind, 10, 64, seed=5, trunk=trunk).eval()
    body = detector.get_submodule("backbone.body")
    assert list(body.state_dict()) == list(trunk)
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in body.state_dict().items())
    images = torch.rand(1, 3, 64, 64)
    features: list[torch.Tensor] = []
    classifier.get_submodule("layer4").register_forward_hook(lambda _, __, output: features.append(output))
    with torch.no_grad():
        classifier.eval()(images)
        levels = body(detector.get_submodule("transform")(list(images))[0].tensors)
    torch.testing.assert_close(levels["2"], features[0])
    assert [level.shape[1] for level in levels.values()] == CHANNELS

    # What stands on the trunk begins the same for every trunk of a seed; without one it is that of the seed.
    random = build_detector(kind, 10, 64, seed=5, trunk=None)
    begun = backbone_state_dict(build_classifier("gcp", 10, 8, seed=5))
    for (name, tensor), (other, theirs) in zip(random.state_dict().items(), detector.state_dict().items(), strict=True):
        assert name == other
        expected = begun[name.removeprefix("backbone.body.")] if name.startswith("backbone.body.") else theirs
        assert torch.equal(tensor, expected), name

    assert all(parameter.requires_grad for parameter in detector.parameters())
    scenes = draw_scenes(DIGITS, 2, LAYOUT, seed=0)
    losses = detector.train()(images_of(scenes), targets_of(scenes))
    assert ("loss_mask" in losses) == (kind == "mask")
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in body.parameters())
    for scene, found in zip(scenes, detect(detector, scenes, batch_size=1), strict=True):
        assert ("masks" in found) == (kind == "mask")
        assert all(len(values) == len(found["labels"]) for values in found.values())
        assert set(found["labels"].tolist()) <= set(range(10))
        if kind == "mask":
            assert found["masks"].shape[1:] == scene.image.shape[1:]
            assert found["masks"].dtype == torch.bool


def test_batches_of_an_epoch_follow_from_seed_and_epoch() -> None:
    scenes = draw_scenes(DIGITS, 7, LAYOUT, seed=0)
    batches = in_random_order(scenes, 3, seed=1)
    orders = [[id(scene) for batch in batches(epoch) for scene in batch] for epoch in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(map(id, scenes))
    assert [len(batch) for batch in batches(1)] == [3, 3, 1]

    single = single_digits(DIGITS, 5, replace(LAYOUT, digits=(1, 1)), 2, seed=1)
    first, again, second = (list(single(epoch)) for epoch in (1, 1, 2))
    assert [images.shape for images, _ in first] == [(2, 3, 64, 64), (2, 3, 64, 64), (1, 3, 64, 64)]
    assert all(torch.equal(a, b) for pair in zip(first, again, strict=True) for a, b in zip(*pair, strict=True))
    assert not torch.equal(first[0][0], second[0][0])


def test_the_loop_learns_gives_mean_losses_and_stops_where_there_is_no_number() -> None:
    layer = nn.Linear(1, 1)
    losses = {"of": lambda batch: (layer(batch) - 3 * batch - 1).square().mean()}
    data = torch.linspace(-1, 1, 8).unsqueeze(1)

    def batches(epoch: int) -> tuple[torch.Tensor, ...]:
        return data.split(4)

    loss: Callable[[torch.Tensor], torch.Tensor] = lambda batch: losses["of"](batch)  # noqa: E731
    curve = list(
        train(layer, batches, loss, optimizer=torch.optim.Adam(layer.parameters(), 0.1), epochs=60, steps_in_epoch=2)
    )
    assert len(curve) == 60
    assert curve[-1] < 1e-2 < curve[0]
    torch.testing.assert_close(layer.weight.item(), 3.0, rtol=0.1, atol=0)

    before = layer.weight.clone()
    losses["of"] = lambda batch: layer(batch).sum() * float("inf")
    with pytest.raises(NonFiniteLossError, match=r"in epoch 1, step 1"):
        next(
            train(layer, batches, loss, optimizer=torch.optim.Adam(layer.parameters(), 0.1), epochs=1, steps_in_epoch=2)
        )
    assert torch.equal(layer.weight, before)


TINY = Settings(
    pools=("avg", "dropcov"), seeds=1, dim=4, digits=8, classifier_epochs=1, classifier_batch=4, test_digits=8,
    scenes=4, epochs=2, test_scenes=3, test_every=1, layout=LAYOUT, classifier_rates=(0.01, 1e30),
    detector_rates=(0.001, 1e30),
    single=replace(LAYOUT, digits=(1, 1)),
)  # fmt: skip


@with_operators
def test_boxes_of_every_size_that_is_drawn_have_a_level_of_their_own() -> None:
    for package in ("mlxtend", "sklearn"):
        pytest.importorskip(package)
    settings = Settings()
    detector = build_detector("box", 10, settings.layout.size, seed=0, trunk=None).eval()
    pool = detector.get_submodule("roi_heads.box_roi_pool")
    digits = load_dataset(DATA, torch.device("cpu")).train
    boxes = torch.cat([scene.boxes for scene in draw_scenes(digits, 100, settings.layout, seed=0)])
    size = (settings.layout.size, settings.layout.size)
    with torch.no_grad():  # the first call tells it how large the levels are
        pool(detector.get_submodule("backbone")(torch.rand(1, 3, *size)), [boxes], [size])
    levels = pool.map_levels([boxes])
    shares = levels.bincount(minlength=len(LEVELS)) / len(boxes)
    assert len(shares) == len(LEVELS)
    assert float(shares.min()) > 0.05, shares
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    for level, (low, high) in enumerate(((0, 16), (16, 32), (32, 96))):
        assert torch.equal(levels == level, (sides >= low) & (sides < high))


@with_operators
@pytest.mark.slow
def test_runs_do_not_depend_on_processes_and_a_training_that_diverges_ends_them(tmp_path: Path) -> None:
    for package in ("mlxtend", "sklearn", "pycocotools"):
        pytest.importorskip(package)
    versions = versions_of(load_dataset(DATA, torch.device("cpu")))
    assert list(versions) == ["gcp_kernels", "torch", "torchvision", "pycocotools", "images"]
    said: list[str] = []
    choices, runs, made = run_all(TINY, versions, tmp_path / "runs", said.append)
    rates = (("avg", 0.01), ("dropcov", 0.01), (RANDOM, None))
    assert [(one.trunk, one.classifier_rate, one.detector_rate, one.diverged) for one in choices] == [
        *((pool, rate, None, CHOOSING if rate > 1 else "") for pool in TINY.pools for rate in TINY.classifier_rates),
        *((*trunk, rate, CHOOSING if rate > 1 else "") for trunk in rates for rate in TINY.detector_rates),
    ]
    assert [(run.trunk, run.classifier_rate, run.detector_rate) for run in runs] == [(*one, 0.001) for one in rates]
    assert len(said) == len(choices) + len(runs)
    assert all(line.startswith(f"{len(said)} runs of ") and ": commit " in line for line in made)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert train_and_measure("dropcov", 0, 0.01, 0.001, TINY) == runs[1]
        assert choose_classifier("avg", 0.01, TINY) == choices[0]
        assert choose_detectors(RANDOM, None, 0.001, TINY) == choices[-2]
        first, other = (train_and_measure(*rest, TINY) for rest in (("avg", 0, 1e30, 0.001), (RANDOM, 0, None, 1e30)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(state, torch.get_rng_state())
    assert [(one.detector, one.epoch, one.compared) for one in runs[1].precisions] == [
        ("mask", 1, "masks"), ("mask", 1, "boxes"), ("mask", 2, "masks"), ("mask", 2, "boxes"),
        ("box", 1, "boxes"), ("box", 2, "boxes"),
    ]  # fmt: skip
    assert runs[0].accuracy is not None
    assert runs[2].accuracy is None
    # Which of its trainings diverged is known, and nothing was done behind it.
    assert (first.diverged, first.accuracy, first.losses) == (CLASSIFIER, None, {})
    assert (other.diverged, list(other.losses)) == ("mask", ["mask"])
    assert not any(run.diverged for run in runs)
