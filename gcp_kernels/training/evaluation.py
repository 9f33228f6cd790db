"""Accuracy on held-out images."""

import torch
from torch import nn


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Per cent of the images that the network, in evaluation mode, gives their label, to two decimals.

    What is printed is then what is compared; one image of 1348 still counts.
    """
    network.eval()
    with torch.no_grad():
        hits = sum(
            int((network(image).argmax(1) == label).sum())
            for image, label in zip(images.split(256), labels.split(256), strict=True)
        )
    return round(100.0 * hits / len(labels), 2)
