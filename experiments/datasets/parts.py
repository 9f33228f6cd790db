"""A data set in three parts: to train on, to choose by, and to report on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Images (n, channels, H, W) in [0, 1] as float32 and labels (n,) as int64, in an order without meaning."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> "Part":
        """Return the first ``count`` images, or all if it is ``None`` or there are no more."""
        return self if count is None else Part(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class ImageData:
    """A data set; one split for every seed.

    Attributes:
        name: that it is loaded by.
        train: what networks learn from.
        validation: what everything is chosen by, such as a learning rate.
        test: what is reported, and nothing chosen by.
        classes: their names, by label.
        source: where the images come from.
        licence: of the images.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    source: str
    licence: str

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.train.images.shape[-1])

    def fingerprint(self) -> str:
        """Return a few digits that change with any pixel or label."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for tensor in (part.images, part.labels):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


def stratified(images: Any, labels: Any, validation: int, test: int, device: torch.device) -> tuple[Part, Part, Part]:
    """Split images (n, H, W) in [0, 1] into training, validation and test, with the classes in equal shares in each.

    ``validation`` and ``test`` are numbers of images; what is left is for training.
    """
    from sklearn.model_selection import train_test_split

    held_out = validation + test
    train_images, images, train_labels, labels = train_test_split(
        images, labels, test_size=held_out, stratify=labels, random_state=0
    )
    parts = train_test_split(images, labels, test_size=test, stratify=labels, random_state=0)
    return (
        part(train_images, train_labels, device),
        part(parts[0], parts[2], device),
        part(parts[1], parts[3], device),
    )


def part(images: Any, labels: Sequence[int], device: torch.device) -> Part:
    """Make a part of grey images (n, H, W)."""
    return Part(
        torch.as_tensor(images, dtype=torch.float32).unsqueeze(1).to(device),
        torch.as_tensor(labels, dtype=torch.int64).to(device),
    )
