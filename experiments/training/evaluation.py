"""Accuracy on held-out images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..datasets import Part
from .batches import TEST_BATCH
from .mixed_precision import FULL_PRECISION, MixedPrecision


def accuracy(network: nn.Module, part: Part) -> float:
    """Return the per cent of the images that the network, in evaluation mode, gives their label, to two decimals.

    What is printed is then what is compared; one image of 2000 still counts.
    """
    batches = zip(part.images.split(TEST_BATCH), part.labels.split(TEST_BATCH), strict=True)
    return per_cent(count_right(network, batches), len(part))


def count_right(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], arithmetic: MixedPrecision = FULL_PRECISION
) -> int:
    """Count the images that the network, in evaluation mode, gives their label."""
    network.eval()
    right = 0
    with torch.no_grad(), arithmetic.autocast():
        for images, labels in batches:
            right += int((network(images).argmax(1) == labels).sum())
    return right


def per_cent(part: float, whole: int) -> float:
    """Return 100 ``part`` / ``whole`` to two decimals."""
    return round(100.0 * part / whole, 2)
