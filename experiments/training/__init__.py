"""Training of small and of published networks: data, networks, learning-rate schedules and one plain loop."""

from .batches import Batches, DigitsBatches, steps_per_epoch
from .digits import DigitsSplit, load_digits_split
from .evaluation import accuracy
from .loop import Epoch, NonFiniteLossError, fit, train_epochs
from .networks import POOLS, build_network
from .schedules import PUBLISHED_EPOCHS, SCHEDULES, learning_rate_factor, scheduler

__all__ = [
    "POOLS",
    "PUBLISHED_EPOCHS",
    "SCHEDULES",
    "Batches",
    "DigitsBatches",
    "DigitsSplit",
    "Epoch",
    "NonFiniteLossError",
    "accuracy",
    "build_network",
    "fit",
    "learning_rate_factor",
    "load_digits_split",
    "scheduler",
    "steps_per_epoch",
    "train_epochs",
]
