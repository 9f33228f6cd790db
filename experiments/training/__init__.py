"""Training of small and of published networks: data, networks, learning-rate schedules and one plain loop."""

from .backbones import BACKBONES
from .batches import Batches, MemoryBatches, steps_per_epoch
from .evaluation import accuracy
from .loop import Epoch, NonFiniteLossError, fit, train_epochs
from .networks import POOLS, STEM, build_network, moved
from .schedules import PUBLISHED_EPOCHS, SCHEDULES, learning_rate_factor, scheduler

__all__ = [
    "BACKBONES",
    "POOLS",
    "PUBLISHED_EPOCHS",
    "SCHEDULES",
    "STEM",
    "Batches",
    "Epoch",
    "MemoryBatches",
    "NonFiniteLossError",
    "accuracy",
    "build_network",
    "fit",
    "learning_rate_factor",
    "moved",
    "scheduler",
    "steps_per_epoch",
    "train_epochs",
]
