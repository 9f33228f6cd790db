"""Batches of an epoch: what the loop asks of any data, and images in memory as that."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..datasets import Part
from .distributed import Processes

Batch = tuple[Tensor, Tensor]
ALONE = Processes()
TEST_BATCH = 256


class Batches(Protocol):
    """The share that one process has of images (B, ...) and labels (B,), on its device.

    ``training(epoch)``, from epoch 1, is a function of the epoch alone: what was drawn before does not matter, so a
    resumed run sees what an uninterrupted one would have seen. ``test()`` has every test image once, over all
    processes. ``images_per_epoch`` and ``test_images`` count those of all processes.
    """

    @property
    def images_per_epoch(self) -> int: ...

    @property
    def test_images(self) -> int: ...

    def training(self, epoch: int) -> Iterable[Batch]: ...

    def test(self) -> Iterable[Batch]: ...


class MemoryBatches:
    """Images in memory, in an order that the seed alone decides; see :class:`Batches`.

    Args:
        train: what to train on, on the device of the network.
        held_out: what to test on, there too.
        batch_size: images of a step, over all processes; in the last of an epoch there may be fewer.
        seed: of the order.
        processes: each gets the same number of images in every step; what does not divide among them at the end of an
            epoch's order is left out of that epoch.
    """

    def __init__(self, train: Part, held_out: Part, batch_size: int, seed: int, processes: Processes = ALONE) -> None:
        self.train, self.held_out = train, held_out
        self.batch_size, self.seed, self.processes = batch_size, seed, processes

    @property
    def images_per_epoch(self) -> int:
        return divisible(len(self.train.labels), self.processes)

    @property
    def test_images(self) -> int:
        return len(self.held_out.labels)

    def training(self, epoch: int) -> Iterator[Batch]:
        # One generator draws the orders of all epochs; those before are drawn again, which takes microseconds.
        generator = torch.Generator().manual_seed(self.seed)
        count = len(self.train.labels)
        for _ in range(epoch):
            order = torch.randperm(count, generator=generator)
        order = order[: self.images_per_epoch].to(self.train.labels.device)
        for batch in order.split(self.batch_size):
            own = self.processes.share(batch)
            yield self.train.images[own], self.train.labels[own]

    def test(self) -> Iterator[Batch]:
        images, labels = (self.processes.share(part) for part in (self.held_out.images, self.held_out.labels))
        return zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True)


def divisible(count: int, processes: Processes) -> int:
    """Return the largest multiple of the number of processes that is not above ``count``."""
    return count - count % processes.count


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Count the optimiser steps of one epoch; the last batch may be smaller."""
    return -(-count // batch_size)
