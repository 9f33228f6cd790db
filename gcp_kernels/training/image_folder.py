"""Folders of images, train/CLASS/* and val/CLASS/*, with the published augmentation, the same however it is run."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..extras import how_to_install
from .batches import TEST_BATCH, Batch, divisible
from .distributed import Processes

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# An image is tested on its centre, 224 of 256 pixels.
CENTRE = 224 / 256


class FolderBatches:
    """An ImageFolder tree as :class:`gcp_kernels.training.batches.Batches`.

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
        processes: as for :class:`gcp_kernels.training.batches.DigitsBatches`.

    Raises:
        FileNotFoundError: ``root`` has no train/ or val/, or a class has no image; from torchvision.
        ValueError: train/ and val/ have other classes, or fewer training images than processes.
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
    ) -> None:
        datasets, transforms = _torchvision()
        normalized = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
        self._augment = transforms.Compose(
            [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip(), *normalized]
        )
        centred = [transforms.Resize(round(image_size / CENTRE)), transforms.CenterCrop(image_size), *normalized]
        check_folders(root)
        self._train = datasets.ImageFolder(str(root / "train"))
        self._test = datasets.ImageFolder(str(root / "val"), transforms.Compose(centred))
        self.classes: list[str] = self._train.classes
        different = sorted(set(self.classes) ^ set(self._test.classes))
        if different:
            raise ValueError(f"train/ and val/ of {root} must have the same classes; only in one is {different[0]!r}")
        if len(self._train) < processes.count:
            raise ValueError(f"{root} has {len(self._train)} training images, fewer than processes")
        self._batch_size, self._seed, self._device = batch_size, seed, device
        self._workers, self._processes = workers, processes

    @property
    def training_images(self) -> int:
        return len(self._train)

    @property
    def images_per_epoch(self) -> int:
        return divisible(len(self._train), self._processes)

    @property
    def test_images(self) -> int:
        return len(self._test)

    def training(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(hashed_seed(self._seed, epoch))
        order = torch.randperm(len(self._train), generator=generator)[: self.images_per_epoch]
        batches = [self._processes.share(batch).tolist() for batch in order.split(self._batch_size)]
        return self._load(_Augmented(self._train, self._augment, self._seed, epoch), batches)

    def test(self) -> Iterator[Batch]:
        own = self._processes.share(torch.arange(len(self._test)))
        return self._load(self._test, [batch.tolist() for batch in own.split(TEST_BATCH) if len(batch)])

    def _load(self, dataset: Any, batches: Sequence[list[int]]) -> Iterator[Batch]:
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            # Without one of its own, a loader draws a seed from the global random state, which is the training's.
            generator=torch.Generator().manual_seed(self._seed),
        )
        for images, labels in loader:
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


class _Augmented(Dataset[tuple[Tensor, int]]):
    """Training images, each changed at random by a function of seed, epoch and index."""

    def __init__(self, images: Any, augment: Any, seed: int, epoch: int) -> None:
        self._images, self._augment, self._seed, self._epoch = images, augment, seed, epoch

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._images[index]
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(hashed_seed(self._seed, self._epoch, index))
        try:
            return self._augment(image), label
        finally:
            torch.set_rng_state(before)


def hashed_seed(*numbers: int) -> int:
    """A seed of 64 bits for these numbers: neighbours have nothing to do with each other."""
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def check_folders(root: Path) -> None:
    """Raise ``FileNotFoundError`` unless ``root`` has folders train and val with something in them."""
    for part in ("train", "val"):
        if not (root / part).is_dir() or not any(path.is_dir() for path in (root / part).iterdir()):
            raise FileNotFoundError(
                f"{root} must be a folder with train/ and val/, in each a folder for every class; "
                f"there is no {root / part} with folders"
            )


def _torchvision() -> tuple[Any, Any]:
    try:
        from torchvision import datasets, transforms
    except (ImportError, RuntimeError) as error:
        # A torchvision built for another torch fails with a RuntimeError: an operator does not exist.
        raise ImportError(
            "folders of images are read by torchvision, which cannot be imported here: it is not installed "
            f"({how_to_install('models')}) or was built for another torch than the one that is"
        ) from error
    return datasets, transforms
