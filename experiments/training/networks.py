"""The small CNN for digits, and other small networks, with every pooling of the papers as the only difference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gcp_kernels.nn.poolings import POOLINGS
from gcp_kernels.validation import check_choice

from ..datasets.digits import CLASSES, SIZE
from ..running.seeds import seeded
from .backbones import BACKBONES

POOLS = tuple(POOLINGS)
# In every network: behind the first convolution, its BatchNorm and its activation.
STEM = "0.2"


def moved(network: nn.Sequential, device: torch.device) -> nn.Sequential:
    """Move a network; on a GPU in torch's usual layout, channels last having been chosen by the times of a CPU."""
    if device.type == "cuda":
        network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network.to(device)


def build_network(
    pool: str | Callable[[int], Any],
    seed: int,
    backbone: str = "cnn",
    *,
    channels: int = 1,
    size: int = SIZE,
    classes: int = CLASSES,
) -> nn.Sequential:
    """Build a backbone, the pooling and one linear classifier: (B, channels, size, size) -> (B, classes).

    The backbone draws its weights first, so that a seed gives every pooling the same ones, and its feature map goes to
    the pooling as it is: as many channels, as many positions for each. torch's global random state is left alone.

    Args:
        pool: one of ``gcp_kernels.nn.poolings.POOLINGS``, or what makes another pooling of the backbone's channels: a
            layer (B, C, h, w) -> (B, F) with ``out_features`` F.
        seed: of the weights.
        backbone: one of ``experiments.training.backbones.BACKBONES``. "cnn" is the one for digits, three convolutions
            and 64 channels.
        channels, size: of the images, which are square.
        classes: outputs.

    Raises:
        ValueError: ``pool`` or ``backbone`` is another one.
    """
    if isinstance(pool, str):
        check_choice("pool", pool, POOLS)
        pool = POOLINGS[pool].build
    check_choice("backbone", backbone, tuple(BACKBONES))
    with seeded(seed):
        trunk, width = BACKBONES[backbone].build(channels, size)
        pooling = pool(width)
        return nn.Sequential(trunk, pooling, nn.Linear(pooling.out_features, classes))
