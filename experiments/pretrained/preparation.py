"""Images, and features of the frozen network: computed once, and kept in a file that all runs map into memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gcp_kernels.commands.atomic_files import write_atomically

from .weights import normalised

BATCH = 25


@dataclass(frozen=True)
class Part:
    """Images (n, 1, H, W) in [0, 1] in float32, labels (n,), and features (n, C, h, w) in float16.

    ReLU6 bounds the features to [0, 6], where float16 rounds by a two-thousandth at most.
    """

    images: Tensor
    labels: Tensor
    features: Tensor


@dataclass(frozen=True)
class Kept:
    """All three parts of a data set, its classes, and where it is from."""

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    source: str
    licence: str


def keep(
    name: str,
    sizes: dict[str, int],
    image_size: int,
    folder: Path,
    load_data: Callable[[str], Any],
    load_network: Callable[[], Any],
) -> None:
    """Compute the features of a data set and keep them with its images.

    Args:
        name: of the data set.
        sizes: images of each part, at most: the first, for their order has no meaning.
        image_size: height and width that the images are brought to.
        folder: an existing one.
        load_data: gives the data set by its name.
        load_network: makes the pretrained network.
    """
    data, network = load_data(name), load_network().eval().to(memory_format=torch.channels_last)
    parts = {}
    for part, most in sizes.items():
        # Cloned, for a view would be saved with all that it is a part of.
        images, labels = (getattr(data, part).images[:most].clone(), getattr(data, part).labels[:most].clone())
        parts[part] = {"images": images, "labels": labels, "features": features(network, images, image_size)}
    about = {"classes": list(data.classes), "source": data.source, "licence": data.licence}
    write_atomically(kept_file(folder, name), lambda file: torch.save({"parts": parts, **about}, file))


def features(network: Any, images: Tensor, size: int) -> Tensor:
    """Return what the network in evaluation mode gives its pool, (n, C, h, w) in float16."""
    with torch.no_grad():
        batches = [network.forward_features(upsampled(batch, size)).half() for batch in images.split(BATCH)]
    return torch.cat([batch.contiguous() for batch in batches])


def upsampled(images: Tensor, size: int) -> Tensor:
    """Bring grey images (B, 1, H, W) to (B, 3, size, size), bilinearly, scaled as the network wants them."""
    images = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return normalised(images.expand(-1, 3, -1, -1)).contiguous(memory_format=torch.channels_last)


def load_kept(folder: Path, name: str) -> Kept:
    """Map what :func:`keep` wrote into memory; processes share the pages."""
    saved = torch.load(kept_file(folder, name), weights_only=True, mmap=True)
    return Kept(
        **{part: Part(**tensors) for part, tensors in saved["parts"].items()},
        classes=tuple(saved["classes"]),
        source=saved["source"],
        licence=saved["licence"],
    )


def kept_file(folder: Path, name: str) -> Path:
    """Return where the features of a data set are kept."""
    return folder / f"features-{name}.pt"
