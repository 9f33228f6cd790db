"""What is learnt: the data of a run in batches, and a fresh network for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .batches import Batches, DigitsBatches
from .configuration import DIGITS, TrainingConfig
from .damaged_images import Report
from .digits import CLASSES, load_digits_split
from .distributed import Processes
from .image_decoding import DamagedImageError
from .image_folder import FolderBatches
from .networks import build_network
from .resnets import build_resnet


@dataclass(frozen=True)
class Task:
    """Batches, the network, and the name of its first convolution, behind which its loss landscape is taken.

    ``dataset`` counts training images, test images and classes: a resumed run must find the same. ``notes`` are lines
    for a person, on what else is in a folder of images; ``damaged`` are those left out of it, ``None`` if none may be.
    """

    batches: Batches
    network: nn.Module
    first_convolution: str
    dataset: dict[str, int]
    notes: Sequence[str] = ()
    damaged: Sequence[DamagedImageError] | None = None


def load_task(
    config: TrainingConfig, device: torch.device, workers: int, processes: Processes, report: Report | None = None
) -> Task:
    """Load or list the images, and build the network on the device. Raises what the data raises.

    ``report`` is as for :class:`gcp_kernels.training.image_folder.FolderBatches`.
    """
    batches: Batches
    notes: Sequence[str] = ()
    damaged: Sequence[DamagedImageError] | None = None
    if config.data == DIGITS:
        digits = load_digits_split(device)
        batches = DigitsBatches(digits, config.batch_size, config.seed, processes)
        training_images, classes = len(digits.train_labels), CLASSES
        network: nn.Module = build_network(config.pool, config.seed)
        first_convolution = "0.0"
    else:
        assert config.arch is not None
        assert config.image_size is not None
        batches = FolderBatches(
            Path(config.data),
            config.batch_size,
            config.image_size,
            config.seed,
            device,
            workers,
            processes,
            skip_damaged=config.skip_damaged,
            report=report,
        )
        notes, damaged = batches.notes, batches.damaged
        training_images, classes = batches.training_images, len(batches.classes)
        network = build_resnet(config.arch, config.pool, classes, config.seed)
        first_convolution = "conv1"
    dataset = {"training_images": training_images, "test_images": batches.test_images, "classes": classes}
    return Task(batches, network.to(device), first_convolution, dataset, notes, damaged)
