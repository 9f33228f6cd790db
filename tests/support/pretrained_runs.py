"""Images and a network for tests of the pretrained experiment: no download, no ImageNet weights, a second for all."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.small_models import timm_mobilenet_v2
from tests.support.torchvision_stand_in import OPERATORS as OPERATORS  # for the processes that the experiment starts

CLASSES = ("dark", "bright")
COUNTS = {"train": 24, "validation": 8, "test": 12}


def bright_and_dark(name: str) -> SimpleNamespace:
    """Make noise of two brightnesses; the name seeds it, so that data sets differ."""
    generator = torch.Generator().manual_seed(len(name))
    parts = {}
    for part, count in COUNTS.items():
        labels = torch.arange(count) % 2
        noise = torch.rand(count, 1, 16, 16, generator=generator)
        parts[part] = SimpleNamespace(images=(noise + labels[:, None, None, None]) / 2, labels=labels)
    return SimpleNamespace(**parts, classes=list(CLASSES), source=f"noise {name}", licence="none")


def random_network() -> nn.Module:
    """Build timm's EfficientNet, a few blocks deep, with weights that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm_mobilenet_v2()


# Of EfficientNet-Lite0: blocks of each stage, and the stride of the first of them.
REPEATS = (1, 2, 2, 3, 3, 4, 1)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def published_network(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute EfficientNet-Lite0, in evaluation mode, from weights in published names: (B, 3, H, W) -> (B, classes).

    Written from the description of the network (Tan & Le, ICML 2019, table 1; the Lite variant has ReLU6 everywhere and
    no squeeze-and-excitation), with TensorFlow's padding.
    """

    def convolution(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        margins = []
        for size in (x.shape[3], x.shape[2]):
            margin = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
            margins += [margin // 2, margin - margin // 2]
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(functional.pad(x, margins), weight, stride=stride, groups=groups)

    def normalisation(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{entry}"][:, None, None] for entry in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * scale + shift

    x = functional.relu6(normalisation(convolution(images, "_conv_stem", 2), "_bn0"))
    strides = [
        stride if index == 0 else 1 for count, stride in zip(REPEATS, STRIDES, strict=True) for index in range(count)
    ]
    for number, stride in enumerate(strides):
        block, before = f"_blocks.{number}", x
        if number:
            x = functional.relu6(normalisation(convolution(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = functional.relu6(normalisation(convolution(x, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        x = normalisation(convolution(x, f"{block}._project_conv"), f"{block}._bn2")
        if x.shape == before.shape:
            x = x + before
    x = functional.relu6(normalisation(convolution(x, "_conv_head"), "_bn1")).mean((2, 3))
    return functional.linear(x, weights["_fc.weight"], weights["_fc.bias"])
