"""What is learnt: the data of a run in batches, and a fresh network for them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .batches import Batches, DigitsBatches
from .configuration import DIGITS, TrainingConfig
from .digits import CLASSES, load_digits_split
from .distributed import Processes
from .image_folder import FolderBatches
from .networks import build_network
from .resnets import build_resnet, check_image_size


@dataclass(frozen=True)
class Task:
    """Batches, the network, and the name of its first convolution, behind which its loss landscape is taken.

    ``dataset`` counts training images, test images and classes: a resumed run must find the same.
    """

    batches: Batches
    network: nn.Module
    first_convolution: str
    dataset: dict[str, int]


def load_task(config: TrainingConfig, device: torch.device, workers: int, processes: Processes) -> Task:
    """Load or list the images, and build the network on the device. Raises what the data raises."""
    batches: Batches
    if config.data == DIGITS:
        digits = load_digits_split(device)
        batches = DigitsBatches(digits, config.batch_size, config.seed, processes)
        training_images, classes = len(digits.train_labels), CLASSES
        network: nn.Module = build_network(config.pool, config.seed)
        first_convolution = "0.0"
    else:
        assert config.arch is not None
        assert config.image_size is not None
        check_image_size(config.pool, config.image_size)
        batches = FolderBatches(
            Path(config.data), config.batch_size, config.image_size, config.seed, device, workers, processes
        )
        training_images, classes = batches.training_images, len(batches.classes)
        network = build_resnet(config.arch, config.pool, classes, config.seed)
        first_convolution = "conv1"
    dataset = {"training_images": training_images, "test_images": batches.test_images, "classes": classes}
    return Task(batches, network.to(device), first_convolution, dataset)
