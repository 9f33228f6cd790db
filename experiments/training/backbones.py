"""Small backbones for small images: a plain CNN, a ResNet-18, a MobileNetV2, each narrow enough for a CPU.

They halve the map while it is larger than wanted and there are places left to do so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Trunk = tuple[nn.Sequential, int]
CNN_WIDTHS = (32, 64, 64)
# A quarter of ResNet-18's, as the ResNets for CIFAR begin with 16 (He et al., CVPR 2016).
RESNET_WIDTHS = (16, 32, 64, 128)
# MobileNetV2's stages behind the first convolution (Sandler et al., CVPR 2018, table 2): expansion, a quarter of the
# channels rounded to a multiple of 8, blocks; and the last convolution, here to 128 instead of 1280 channels.
MOBILENET_FIRST, MOBILENET_LAST = 8, 128
MOBILENET_STAGES = ((1, 8, 1), (6, 8, 2), (6, 8, 3), (6, 16, 4), (6, 24, 3), (6, 40, 3), (6, 80, 1))


@dataclass(frozen=True)
class Backbone:
    """A kind of backbone.

    Attributes:
        title: for a person; behind a slash, how many times fewer channels than published.
        largest_map: height and width that the last map has at most, unless the images are large.
        strided: which convolutions or stages, from 0, halve the map, in the order in which they are asked to.
        make: channels of the images and the stride of each convolution or stage -> the layers and their width. The
            first three are a convolution, its BatchNorm and its activation.
        walk: which of ``gcp_kernels.analysis.PUBLISHED_STEPS`` a walk along the gradient takes.
    """

    title: str
    largest_map: int
    strided: tuple[int, ...]
    make: Callable[[int, Sequence[int]], Trunk]
    walk: str = "resnet"

    def build(self, channels: int, size: int) -> Trunk:
        """Make the backbone for images (B, channels, size, size), with the channels of its map (B, width, h, w)."""
        return self.make(channels, self.strides(size))

    def strides(self, size: int) -> list[int]:
        """Return a stride for each convolution or stage."""
        strides = [1] * (max(self.strided) + 1)
        for place in self.strided:
            if size > self.largest_map:
                strides[place] = 2
                size = -(-size // 2)
        return strides


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.ReLU,
) -> list[nn.Module]:
    """Make a convolution, BatchNorm and activation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs), activation()]


def cnn(channels: int, strides: Sequence[int]) -> Trunk:
    """Three convolutions to 64 channels."""
    layers = []
    for width, stride in zip(CNN_WIDTHS, strides, strict=True):
        layers += convolution(channels, width, 3, stride)
        channels = width
    return nn.Sequential(*layers), channels


def wide_cnn(channels: int, strides: Sequence[int]) -> Trunk:
    """Three convolutions and a 1x1 convolution to 256 channels, as many as the papers pool."""
    layers, width = cnn(channels, strides)
    return layers.extend(convolution(width, 256, 1)), 256


def resnet18(channels: int, strides: Sequence[int]) -> Trunk:
    """Eight residual blocks in four stages of up to 128 channels; ``strides`` begin at the stem."""
    stem, *stages = strides
    width = RESNET_WIDTHS[0]
    layers = convolution(channels, width, 3, stem)
    for outputs, stride in zip(RESNET_WIDTHS, stages, strict=True):
        layers += [ResidualBlock(width, outputs, stride), ResidualBlock(outputs, outputs, 1)]
        width = outputs
    return channels_last(layers), width


def mobilenet_v2(channels: int, strides: Sequence[int]) -> Trunk:
    """Seventeen inverted residuals of up to 80 channels, then 128; ``strides`` begin at the stem."""
    stem, *stages = strides
    width = MOBILENET_FIRST
    layers = convolution(channels, width, 3, stem, activation=nn.ReLU6)
    for (expansion, outputs, blocks), stage_stride in zip(MOBILENET_STAGES, stages, strict=True):
        for stride in (stage_stride, *[1] * (blocks - 1)):
            layers.append(InvertedResidual(width, outputs, stride, expansion))
            width = outputs
    layers += convolution(width, MOBILENET_LAST, 1, activation=nn.ReLU6)
    return channels_last(layers), MOBILENET_LAST


def channels_last(layers: Sequence[nn.Module]) -> nn.Sequential:
    """Lay weights, and with them the maps, out with channels last: on a CPU deep networks take a third less time."""
    trunk: nn.Sequential = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return trunk


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(*convolution(inputs, outputs, 3, stride), *convolution(outputs, outputs, 3)[:2])
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return functional.relu(self.residual(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, one in each channel by itself, one back; beside the identity if it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = convolution(inputs, hidden, 1, activation=nn.ReLU6) if expansion > 1 else []
        depthwise = convolution(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6)
        project = convolution(hidden, outputs, 1)[:2]
        self.residual = nn.Sequential(*expand, *depthwise, *project)
        self.added = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return x + self.residual(x) if self.added else self.residual(x)


BACKBONES = {
    "cnn": Backbone("CNN-64", 16, (0, 1, 2), cnn),
    "cnn256": Backbone("CNN-256", 8, (0, 1, 2), wide_cnn),
    "resnet18": Backbone("ResNet-18/4", 8, (2, 3, 0, 4), resnet18),
    "mobilenetv2": Backbone("MobileNetV2/4", 8, (0, 2, 3, 4, 6, 7), mobilenet_v2, "mobilenet_v2"),
}
