"""Folders of images, train/CLASS/* and val/CLASS/*, with the published augmentation, the same however it is run."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from gcp_kernels.extras import import_torchvision
from gcp_kernels.listing import listed

from ..datasets.image_decoding import DamagedImageError, ImageError, decode
from ..datasets.image_listing import NAMED, check_folders, list_images, notes, require_images
from .batches import TEST_BATCH, Batch, divisible
from .damaged_images import Report, find_damaged
from .distributed import Processes

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# An image is tested on its centre, 224 of 256 pixels.
CENTRE = 224 / 256
# For the error where torchvision does not load.
USER = "folders of images are read by"


class FolderBatches:
    """An ImageFolder tree as :class:`experiments.training.batches.Batches`.

    What is an image, and of which class, says :func:`experiments.datasets.image_listing.list_images`; how a file
    becomes one, :func:`experiments.datasets.image_decoding.decode`.

    In training a random part of each image is scaled to ``image_size`` and mirrored half of the time
    (RandomResizedCrop, RandomHorizontalFlip); in testing the shorter side is scaled to ``image_size`` * 256 / 224 and
    the centre cut out; both are normalised by ImageNet's mean and deviation. The order of the images is a function of
    seed and epoch, and what becomes of one image of seed, epoch and its index: neither the number of workers nor that
    of processes changes it, nor where a run was interrupted.

    Args:
        root: a folder with train/ and val/, in each a folder of images for every class.
        batch_size: images of a step, over all processes; in the last of an epoch there may be fewer.
        image_size: height and width that the network sees.
        seed: of order and augmentation.
        device: where batches go.
        workers: processes that read images; 0 to read in this one.
        processes: as for :class:`experiments.training.batches.MemoryBatches`.
        skip_damaged: read every image once now, all processes together, and leave out those that cannot be decoded:
            everything is then as if they were not there.
        report: of that, as for :func:`experiments.training.damaged_images.find_damaged`.

    Attributes:
        classes: their names, by label.
        damaged: the images that were left out, in the order of their listing; ``None`` without ``skip_damaged``.
        notes: lines for a person, on files and folders that are no images and no classes.

    Raises:
        FileNotFoundError: ``root`` has no train/ or val/, a class has no image, or a link leads nowhere.
        ValueError: train/ and val/ have other classes, or fewer training images than processes; or a link leads to a
            folder that is listed already.
        ImageError: in the batches, for an image that cannot be used; with ``skip_damaged`` now, for one that is not
            damaged: it has no known range.
        OSError: a folder cannot be read.
        ImportError: torchvision is not installed, or does not load beside this torch.
    """

    def __init__(
        self,
        root: Path,
        batch_size: int,
        image_size: int,
        seed: int,
        device: torch.device,
        workers: int,
        processes: Processes,
        *,
        skip_damaged: bool = False,
        report: Report | None = None,
    ) -> None:
        suffixes = import_torchvision(USER, "datasets.folder").IMG_EXTENSIONS
        transforms = import_torchvision(USER, "transforms")
        normalized = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        self._augment = transforms.Compose(
            [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip(), *normalized]
        )
        self._centred = transforms.Compose(
            [transforms.Resize(round(image_size / CENTRE)), transforms.CenterCrop(image_size), *normalized]
        )
        check_folders(root)
        self._train, self._test = (list_images(root / part, suffixes) for part in ("train", "val"))
        self.classes: list[str] = self._train.classes
        different = sorted(set(self.classes) ^ set(self._test.classes))
        if different:
            raise ValueError(
                f"train/ and val/ of {root} must have the same classes; only in one of them: "
                f"{listed(map(repr, different), NAMED)}"
            )
        listings = {root / "train": self._train, root / "val": self._test}
        for part, listing in listings.items():
            require_images(listing, part, f"({', '.join(suffixes)})")
        self.notes: list[str] = notes(self._train, self._test)
        self.damaged: list[DamagedImageError] | None = None
        if skip_damaged:
            self.damaged = find_damaged([*self._train.samples, *self._test.samples], workers, processes, report)
            left_out = {error.path for error in self.damaged}
            for part, listing in listings.items():
                listing.samples = [sample for sample in listing.samples if sample[0] not in left_out]
                require_images(listing, part, "that can be decoded")
        if len(self._train.samples) < processes.count:
            raise ValueError(f"{root} has {len(self._train.samples)} training images, fewer than processes")
        self._batch_size, self._seed, self._device = batch_size, seed, device
        self._workers, self._processes = workers, processes

    @property
    def samples(self) -> dict[str, list[tuple[str, int]]]:
        """Path and label of every image of train/ and of val/, class by class."""
        return {"train": self._train.samples, "val": self._test.samples}

    @property
    def training_images(self) -> int:
        return len(self._train.samples)

    @property
    def images_per_epoch(self) -> int:
        return divisible(self.training_images, self._processes)

    @property
    def test_images(self) -> int:
        return len(self._test.samples)

    def training(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(hashed_seed(self._seed, epoch))
        order = torch.randperm(self.training_images, generator=generator)[: self.images_per_epoch]
        batches = [self._processes.share(batch).tolist() for batch in order.split(self._batch_size)]
        return self._load(_Augmented(self._train.samples, self._augment, self._seed, epoch), batches)

    def test(self) -> Iterator[Batch]:
        own = self._processes.share(torch.arange(self.test_images))
        batches = [batch.tolist() for batch in own.split(TEST_BATCH) if len(batch)]
        return self._load(_Images(self._test.samples, self._centred), batches)

    @property
    def _advice(self) -> str:
        if self.damaged is None:
            return "restore it and --resume, or begin in another folder with --skip-damaged, which leaves it out"
        return "it could be when all images were decoded; restore it and --resume"

    def _load(self, images: "_Images", batches: Sequence[list[int]]) -> Iterator[Batch]:
        loader = DataLoader(
            _InBatches(images, batches),
            batch_size=None,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            # Without one of its own, a loader draws a seed from the global random state, which is the training's.
            generator=torch.Generator().manual_seed(self._seed),
        )
        for batch in loader:
            if isinstance(batch, DamagedImageError):
                raise DamagedImageError(batch.path, f"{batch.reason}; {self._advice}")
            if isinstance(batch, ImageError):
                raise batch
            yield tuple(part.to(self._device, non_blocking=True) for part in batch)


class _Images(Dataset[tuple[Any, int]]):
    """Images and their labels."""

    def __init__(self, samples: Sequence[tuple[str, int]], transform: Any) -> None:
        self._samples, self._transform = samples, transform

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self._samples[index]
        return self._transform(decode(path)), label


class _Augmented(_Images):
    """Training images, each changed at random by a function of seed, epoch and index."""

    def __init__(self, samples: Sequence[tuple[str, int]], augment: Any, seed: int, epoch: int) -> None:
        super().__init__(samples, augment)
        self._seed, self._epoch = seed, epoch

    def __getitem__(self, index: int) -> tuple[Any, int]:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(hashed_seed(self._seed, self._epoch, index))
        try:
            return super().__getitem__(index)
        finally:
            torch.set_rng_state(before)


class _InBatches(Dataset[Any]):
    """Batches; instead of one with an image that cannot be used, the error.

    Raised in a worker, it would reach the other side as another one whose message is a traceback.
    """

    def __init__(self, images: _Images, batches: Sequence[list[int]]) -> None:
        self._images, self._batches = images, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        try:
            return default_collate([self._images[image] for image in self._batches[index]])
        except ImageError as error:
            return error


def hashed_seed(*numbers: int) -> int:
    """Hash these numbers into a seed of 64 bits: neighbours have nothing to do with each other."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
