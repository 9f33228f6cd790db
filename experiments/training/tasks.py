"""What is learnt: the data of a run in batches, and a fresh network for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..datasets import load_dataset
from ..datasets.image_decoding import DamagedImageError
from .batches import Batches, MemoryBatches
from .configuration import DIGITS, TrainingConfig
from .damaged_images import Report
from .dataset import describe_digits, describe_folder
from .distributed import Processes
from .image_folder import FolderBatches
from .networks import build_network
from .resnets import build_resnet, check_image_size, check_smallest_share


@dataclass(frozen=True)
class Task:
    """Batches, the network, and the name of its first convolution, behind which its loss landscape is taken.

    ``classes`` are their names in the order of the network's outputs. ``dataset`` counts training images, test images
    and classes, and has a fingerprint of what is listed. A resumed run must find both the same. ``notes`` are lines for
    a person, on what else is in a folder of images; ``damaged`` are those left out of it, ``None`` if none may be.
    """

    batches: Batches
    network: nn.Module
    first_convolution: str
    classes: list[str]
    dataset: dict[str, Any]
    notes: Sequence[str] = ()
    damaged: Sequence[DamagedImageError] | None = None


def load_task(
    config: TrainingConfig, device: torch.device, workers: int, processes: Processes, report: Report | None = None
) -> Task:
    """Load or list the images, and build the network on the device. Raises what the data raises.

    ``report`` is as for :class:`experiments.training.image_folder.FolderBatches`.
    """
    batches: Batches
    notes: Sequence[str] = ()
    damaged: Sequence[DamagedImageError] | None = None
    if config.data == DIGITS:
        digits = load_dataset(DIGITS, device)
        batches = MemoryBatches(digits.train, digits.test, config.batch_size, config.seed, processes)
        training_images, classes = len(digits.train), list(digits.classes)
        listing = describe_digits(digits)
        network: nn.Module = build_network(config.pool, config.seed)
        first_convolution = "0.0"
    else:
        assert config.arch is not None
        assert config.image_size is not None
        check_image_size(config.pool, config.image_size)
        root = Path(config.data)
        batches = FolderBatches(
            root,
            config.batch_size,
            config.image_size,
            config.seed,
            device,
            workers,
            processes,
            skip_damaged=config.skip_damaged,
            report=report,
        )
        last = batches.images_per_epoch % config.batch_size or config.batch_size
        check_smallest_share(config.pool, config.image_size, last // processes.count)
        notes, damaged = batches.notes, batches.damaged
        training_images, classes = batches.training_images, batches.classes
        listing = describe_folder(root, classes, batches.samples)
        network = build_resnet(config.arch, config.pool, len(classes), config.seed)
        first_convolution = "conv1"
    dataset = {
        "training_images": training_images,
        "test_images": batches.test_images,
        "classes": len(classes),
        "listing": listing,
    }
    return Task(batches, network.to(device), first_convolution, classes, dataset, notes, damaged)
