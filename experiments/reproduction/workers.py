"""A job as a process runs it, with images that it has loaded before."""

from functools import lru_cache

import torch

from ..datasets import ImageData, load_dataset
from .experiment import train_and_measure
from .runs import Job, Run
from .settings import Settings


@lru_cache(maxsize=1)
def load_images(settings: Settings) -> ImageData:
    """Load what ``settings`` name, once in a process; raises what :func:`experiments.datasets.load_dataset` does."""
    return load_dataset(settings.data, torch.device(settings.device), settings.image_size, settings.images)


def run(job: Job, settings: Settings) -> Run:
    """Run a job on what ``settings`` name."""
    return train_and_measure(job, load_images(settings), settings)
