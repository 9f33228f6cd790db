"""The papers' ResNets for folders of images, with every pooling that the small CNN for digits has too."""

from torch import nn

from gcp_kernels import models
from gcp_kernels.nn.poolings import BASELINE, POOLINGS
from gcp_kernels.validation import check_choice

from ..running.seeds import seeded
from .networks import POOLS

ARCHITECTURES = tuple(models.__all__)
# Pixels to a position of the map that a covariance is taken of: stride 4 before the stages, 2 in the second and third.
REDUCTION = 16


def check_image_size(pool: str, image_size: int) -> None:
    """Raise for images of which a covariance pool would see one position, which cannot be trained."""
    if pool != BASELINE and image_size <= REDUCTION:
        raise ValueError(
            f"image_size must be at least {REDUCTION + 1} for pool={pool!r}, got {image_size}: the map that is pooled "
            "would have one position, whose covariance is zero"
        )


def check_smallest_share(pool: str, image_size: int, images: int) -> None:
    """Raise if the last map of average pooling, whose fourth stage has a stride too, has one position in one image.

    Args:
        pool: of the network.
        image_size: height and width.
        images: the fewest that a process has in a step.
    """
    if pool == BASELINE and images == 1 and image_size <= 2 * REDUCTION:
        raise ValueError(
            f"a step with one image of {image_size} pixels gives batch normalisation one value for each channel, which "
            f"it refuses: give another batch_size, or an image_size of at least {2 * REDUCTION + 1}"
        )


def build_resnet(arch: str, pool: str, num_classes: int, seed: int) -> nn.Module:
    """Build a ResNet of :mod:`gcp_kernels.models` with random weights: (B, 3, H, W) -> (B, num_classes).

    "gcp" (iSQRT-COV), "dropcov" and "avg" are as published there. The other poolings are given the network that their
    entry in ``gcp_kernels.nn.poolings.POOLINGS`` names. torch's global random state is left alone.

    Raises:
        ValueError: ``arch`` or ``pool`` is another one.
        ImportError: torchvision is not installed, or does not load beside this torch.
    """
    check_choice("arch", arch, ARCHITECTURES)
    check_choice("pool", pool, POOLS)
    constructor = getattr(models, arch)
    with seeded(seed):
        pooling = POOLINGS[pool]
        network: nn.Module = constructor(pooling.network, num_classes, **pooling.options)
        return network
