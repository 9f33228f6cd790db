"""Any folder of images as a data set in memory, train/CLASS/*, val/CLASS/* and, if there is one, test/CLASS/*."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gcp_kernels.listing import listed
from gcp_kernels.validation import check_at_least

from .image_decoding import decode
from .image_listing import NAMED, Listing, check_folders, list_images, require_images
from .parts import ImageData, Part

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Of a folder without test/ every fifth training image is one to choose by.
HELD_OUT = 5
Samples = Sequence[tuple[str, int]]


def load_folder(root: Path, device: torch.device, image_size: int, images: int | None = None) -> ImageData:
    """Load a folder's images in RGB, the shorter side scaled to ``image_size`` and the centre cut out.

    With test/, val/ is for choosing and test/ for reporting. Without it, val/ is for reporting, as with ImageNet, and
    every fifth training image of each class, in the order of the names, is for choosing.

    Raises:
        ValueError: the parts have other classes; a class has fewer than two training images where one is held out.
        FileNotFoundError: there is no train/ or val/, or a class has no image.
        experiments.datasets.image_decoding.ImageError: an image cannot be used.
    """
    check_at_least("image_size", image_size, 1)
    check_folders(root)
    train = _list(root, "train")
    validation = _list(root, "val", like=train)
    if (root / "test").is_dir():
        samples: tuple[Samples, ...] = (train.samples, validation.samples, _list(root, "test", like=train).samples)
        split = "training, validation and test are its own"
    else:
        samples = (*_hold_out(train, root), validation.samples)
        split = f"every {HELD_OUT}th training image is for validation, and val/ is the test"
    parts = [_load(part, image_size, device, images) for part in samples]
    return ImageData(
        # No name of another data set, whatever the folder is called.
        name=f"folder {root.name}",
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=tuple(train.classes),
        source=f"a folder, images scaled to {image_size}x{image_size}; {split}",
        licence="not known here",
    )


def _list(root: Path, name: str, like: Listing | None = None) -> Listing:
    listing = list_images(root / name, SUFFIXES)
    if like is not None and listing.classes != like.classes:
        different = sorted(set(listing.classes) ^ set(like.classes))
        raise ValueError(
            f"train/ and {name}/ of {root} must have the same classes; only in one of them: "
            f"{listed(map(repr, different), NAMED)}"
        )
    require_images(listing, root / name, f"({', '.join(SUFFIXES)})")
    return listing


def _hold_out(train: Listing, root: Path) -> tuple[Samples, Samples]:
    """Split the training images; the first of each class stays in training."""
    kept: list[tuple[str, int]] = []
    held: list[tuple[str, int]] = []
    for label, name in enumerate(train.classes):
        own = [sample for sample in train.samples if sample[1] == label]
        if len(own) < 2:
            raise ValueError(f"class {name!r} in {root / 'train'} has one image: none is left for validation")
        taken = own[1::HELD_OUT]
        held += taken
        kept += [sample for sample in own if sample not in taken]
    return kept, held


def _load(samples: Samples, image_size: int, device: torch.device, count: int | None) -> Part:
    """Read so many images, in an order in which the classes are mixed: networks are also shown the first few alone."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:count].tolist()
    images = torch.stack([_pixels(samples[index][0], image_size) for index in order])
    return Part(images.to(device), torch.tensor([samples[index][1] for index in order], device=device))


def _pixels(path: str, image_size: int) -> Tensor:
    from PIL import Image

    image = decode(path)
    width, height = image.size
    scale = image_size / min(width, height)
    wide, high = max(image_size, round(width * scale)), max(image_size, round(height * scale))
    left, top = (wide - image_size) // 2, (high - image_size) // 2
    image = image.resize((wide, high), Image.Resampling.BILINEAR)
    image = image.crop((left, top, left + image_size, top + image_size))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image_size, image_size, 3).permute(2, 0, 1).float() / 255
