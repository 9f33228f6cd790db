"""Small networks: the size of what is pooled, the same trunk for every pooling, and where the stem ends."""

import copy

import pytest
import torch
from torch import nn

from experiments.training import BACKBONES, POOLS, STEM, build_network, moved
from experiments.training.backbones import InvertedResidual, ResidualBlock

pytestmark = pytest.mark.same_without_gpu


@pytest.mark.parametrize(
    ("name", "channels", "maps"),
    [
        ("cnn", 64, {8: 8, 28: 14, 64: 16, 224: 28}),
        ("cnn256", 256, {8: 8, 28: 7, 64: 8, 224: 28}),
        ("resnet18", 128, {8: 8, 28: 7, 64: 8, 224: 14}),
        ("mobilenetv2", 128, {8: 8, 28: 7, 64: 8, 224: 7}),
    ],
)
def test_what_is_pooled_is_about_as_large_whatever_the_images(name, channels, maps):
    assert set(BACKBONES) == {"cnn", "cnn256", "resnet18", "mobilenetv2"}
    for size, map_size in maps.items():
        trunk, width = BACKBONES[name].build(3, size)
        assert width == channels
        assert trunk.eval()(torch.rand(1, 3, size, size)).shape == (1, channels, map_size, map_size)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_pooling_has_the_same_trunk(name):
    average, *others = (build_network(pool, 5, name, channels=1, size=28, classes=7) for pool in POOLS)
    for other in others:
        for ours, theirs in zip(average[0].parameters(), other[0].parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert other.eval()(torch.rand(2, 1, 28, 28)).shape == (2, 7)
    stem = dict(average.named_modules())[STEM]
    activation = nn.ReLU6 if name == "mobilenetv2" else nn.ReLU
    assert type(stem) is activation
    assert [type(layer) for layer in average[0][:3]] == [nn.Conv2d, nn.BatchNorm2d, activation]
    # What the rest of the network is given is what the stem gives: nothing goes past it.
    trunk = average.eval()[0]
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(trunk[3:](trunk[:3](images)), trunk(images))


def test_layers_are_as_many_as_published():
    """ResNet-18 has 17 convolutions before the classifier and 3 in shortcuts; MobileNetV2 52."""
    counts = {
        name: sum(isinstance(layer, nn.Conv2d) for layer in BACKBONES[name].build(3, 28)[0].modules())
        for name in ("resnet18", "mobilenetv2")
    }
    assert counts == {"resnet18": 20, "mobilenetv2": 52}
    trunk, _ = BACKBONES["mobilenetv2"].build(3, 28)
    depthwise = [layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert len(depthwise) == 17
    assert all(layer.groups == layer.in_channels == layer.out_channels for layer in depthwise)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_channels_last_changes_nothing_but_rounding(name):
    """The deep networks are laid out with channels last; gradients of the first weights come to the same without."""
    network = build_network("gcp", 0, name, channels=3, size=28, classes=4)
    other = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    assert network[0](torch.rand(1, 3, 28, 28)).is_contiguous(memory_format=torch.channels_last)
    assert other[0](torch.rand(1, 3, 28, 28)).is_contiguous()
    images = torch.rand(4, 3, 28, 28, dtype=torch.float64)
    for model in (network, other):
        model.double()(images).square().sum().backward()
    torch.testing.assert_close(network[0][0].weight.grad, other[0][0].weight.grad, rtol=1e-9, atol=1e-9)


def test_on_a_gpu_networks_have_the_usual_layout(monkeypatch):
    """Channels last was chosen by the times of a CPU; there it stays, and what has never been tried is not the rule."""
    network = build_network("gcp", 0, "resnet18", size=28)
    weights = [one for one in network.parameters() if one.dim() == 4 and one.shape[1] > 1 and one.shape[2] > 1]
    assert moved(network, torch.device("cpu")) is network
    assert not any(one.is_contiguous() for one in weights)
    went_to, to = [], nn.Module.to

    def without_the_gpu(self, *places, **options):
        went_to.extend(places)
        return to(self, **options)

    monkeypatch.setattr(nn.Module, "to", without_the_gpu)
    moved(network, torch.device("cuda"))
    assert went_to == [torch.device("cuda")]
    assert weights
    assert all(one.is_contiguous() for one in weights)


def test_what_is_learnt_of_a_residual_is_added_to_what_was_there():
    """With nothing learnt yet, the map goes through; where the shape changes, through a 1x1 convolution."""
    x = torch.rand(2, 8, 6, 6)
    for block in (ResidualBlock(8, 8, 1), InvertedResidual(8, 8, 1, 6)):
        nn.init.zeros_(block.residual[-1].weight)
        torch.testing.assert_close(block(x), x)
    block = ResidualBlock(8, 16, 2)
    nn.init.zeros_(block.residual[-1].weight)
    torch.testing.assert_close(block.eval()(x), block.shortcut(x).relu())
    block = InvertedResidual(8, 8, 2, 6)
    nn.init.zeros_(block.residual[-1].weight)
    assert not block(x).any()


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match=r"backbone must be one of 'cnn', .*'mobilenetv2', got 'vgg'"):
        build_network("gcp", 0, "vgg")
