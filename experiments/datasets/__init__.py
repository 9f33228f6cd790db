"""Images to learn from, by name or from a folder: training, validation and test apart, and nothing downloaded."""

from dataclasses import replace
from pathlib import Path

import torch

from .digits import load_digits_data
from .folder import load_folder
from .mnist import load_mnist
from .parts import ImageData, Part
from .typefaces import load_typefaces

DATASETS = {"digits": load_digits_data, "mnist": load_mnist, "typefaces": load_typefaces}
FOLDER_IMAGE_SIZE = 64

__all__ = ["DATASETS", "FOLDER_IMAGE_SIZE", "ImageData", "Part", "load_dataset"]


def load_dataset(
    name: str, device: torch.device, image_size: int | None = None, images: int | None = None
) -> ImageData:
    """Load a data set onto a device.

    Args:
        name: one of ``DATASETS``, or the path of a folder of images (:func:`experiments.datasets.folder.load_folder`).
        device: where images and labels go.
        image_size: height and width of the images of a folder, ``FOLDER_IMAGE_SIZE`` if ``None``; the others have
            their own.
        images: how many of each part, all if ``None``.

    Returns:
        The same images in the same order each time.

    Raises:
        ValueError: the name is none of these and no folder; an ``image_size`` for a data set that has its own; a
            folder whose parts have other classes, or too few images.
        FileNotFoundError: a folder without the parts, or a class without an image.
        ImportError: a package that has the images is not installed; the message says how to.
    """
    if name not in DATASETS:
        root = Path(name)
        if not root.is_dir():
            raise ValueError(
                f"data must be one of {', '.join(map(repr, DATASETS))} or a folder of images, got {name!r}"
            )
        return load_folder(root, device, FOLDER_IMAGE_SIZE if image_size is None else image_size, images)
    if image_size is not None:
        raise ValueError(f"image_size is for a folder of images; {name!r} has its own, got {image_size}")
    data = DATASETS[name](device)
    train, validation, test = (part.first(images) for part in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test)
