"""The small CNN for digits, with every pooling that the papers compare as the only difference."""

import torch
from torch import nn

from gcp_kernels.nn.poolings import POOLINGS
from gcp_kernels.validation import check_choice

from .digits import CLASSES

POOLS = tuple(POOLINGS)
WIDTHS = (32, 64, 64)


def build_network(pool: str, seed: int) -> nn.Sequential:
    """Build three convolutions, the pooling and one linear classifier: (B, 1, 8, 8) -> (B, 10).

    ``pool`` is one of ``gcp_kernels.nn.poolings.POOLINGS``. The convolutions draw their weights first, so that a seed
    gives every pooling the same ones, and the feature map (B, 64, 8, 8) goes to the pooling as it is. torch's global
    random state is left alone.

    Raises:
        ValueError: ``pool`` is another one.
    """
    check_choice("pool", pool, POOLS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = nn.Sequential()
        channels = 1
        for width in WIDTHS:
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            backbone.extend([convolution, nn.BatchNorm2d(width), nn.ReLU()])
            channels = width
        pooling = POOLINGS[pool].build(channels)
        return nn.Sequential(backbone, pooling, nn.Linear(pooling.out_features, CLASSES))
