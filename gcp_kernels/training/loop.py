"""The loop: one epoch after another over tensors of images, in an order that the seed alone decides."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .digits import DigitsSplit
from .evaluation import accuracy

AfterStep = Callable[[torch.Tensor, torch.Tensor], object]


@dataclass(frozen=True)
class Epoch:
    """What one epoch ended with: mean training loss, test accuracy in per cent, seconds spent training."""

    loss: float
    accuracy: float
    seconds: float


def fit(
    network: nn.Module,
    digits: DigitsSplit,
    *,
    optimizer: Optimizer,
    schedule: LRScheduler,
    epochs: int,
    batch_size: int,
    seed: int,
    after_step: AfterStep,
) -> Iterator[Epoch]:
    """Train in place with cross-entropy, yielding after each epoch.

    Args:
        network: (B, 1, 8, 8) -> (B, 10).
        digits: what to train and to test on, on the device of the network.
        optimizer: of the network's parameters.
        schedule: of its learning rate; stepped after every step of the optimiser.
        epochs: how many.
        batch_size: images in a step; in the last of an epoch there may be fewer.
        seed: decides the order of the images, and nothing else does.
        after_step: called after every step of the optimiser, with the step's images and labels.
    """
    count = len(digits.train_labels)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        network.train()
        started = time.perf_counter()
        total = 0.0
        for batch in torch.randperm(count, generator=order).to(digits.train_labels.device).split(batch_size):
            images, labels = digits.train_images[batch], digits.train_labels[batch]
            loss = functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
            after_step(images, labels)
        seconds = time.perf_counter() - started
        yield Epoch(total / count, accuracy(network, digits.test_images, digits.test_labels), seconds)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimiser steps in one epoch; the last batch may be smaller."""
    return -(-count // batch_size)
