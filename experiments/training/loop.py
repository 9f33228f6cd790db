"""The loop: one epoch after another over batches of images, for the demo, the training command and everything else."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..datasets import Part
from .batches import ALONE, Batches, MemoryBatches
from .distributed import Processes
from .evaluation import count_right, per_cent
from .mixed_precision import FULL_PRECISION, MixedPrecision

AfterStep = Callable[[torch.Tensor, torch.Tensor], object]


@dataclass(frozen=True)
class Epoch:
    """What one epoch ended with: mean training loss, per cent right of held-out images, seconds spent training."""

    loss: float
    accuracy: float
    seconds: float


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite; the message says in which epoch and step."""


def fit(
    network: nn.Module,
    train: Part,
    held_out: Part,
    *,
    optimizer: Optimizer,
    schedule: LRScheduler,
    epochs: int,
    batch_size: int,
    seed: int,
    after_step: AfterStep,
) -> Iterator[Epoch]:
    """Train in place on images in memory with cross-entropy, yielding after each epoch; see :func:`train_epochs`.

    Args:
        network: images to logits (B, classes).
        train: what to train on, on the device of the network.
        held_out: what to test on after each epoch, there too.
        optimizer: of the network's parameters.
        schedule: of its learning rate; stepped after every step of the optimiser.
        epochs: how many.
        batch_size: images in a step; in the last of an epoch there may be fewer.
        seed: decides the order of the images, and nothing else does.
        after_step: called after every step of the optimiser, with the step's images and labels.
    """
    return train_epochs(
        network,
        MemoryBatches(train, held_out, batch_size, seed),
        optimizer=optimizer,
        schedule=schedule,
        epochs=epochs,
        after_step=after_step,
    )


def train_epochs(
    network: nn.Module,
    batches: Batches,
    *,
    optimizer: Optimizer,
    schedule: LRScheduler,
    epochs: int,
    after_step: AfterStep,
    first_epoch: int = 1,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
    arithmetic: MixedPrecision = FULL_PRECISION,
    processes: Processes = ALONE,
) -> Iterator[Epoch]:
    """Train in place with cross-entropy, yielding after each epoch.

    Args:
        network: images to logits (B, classes).
        batches: what this process trains and tests on.
        optimizer: of the network's parameters.
        schedule: of its learning rate; stepped after every step of the optimiser.
        epochs: the number of the last epoch.
        after_step: called after every step of the optimiser, with the step's images and labels.
        first_epoch: 1, or that with which a resumed run goes on.
        forward: what computes the network in training: itself, compiled, or in DistributedDataParallel.
        arithmetic: of the forward and backward pass.
        processes: what is yielded is of all of them, the seconds apart. Before a test the first one's buffers go to
            all, so that it is of one network.

    Raises:
        NonFiniteLossError: after the forward pass; the parameters are those before the step.

    Example:
        >>> import torch
        >>> from experiments.datasets import Part
        >>> from experiments.training import MemoryBatches, build_network, scheduler, train_epochs
        >>> images = Part(torch.rand(8, 1, 8, 8), torch.arange(8))
        >>> batches = MemoryBatches(images, images, batch_size=4, seed=0)
        >>> network = build_network("gcp", seed=0)
        >>> sgd = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> epochs = train_epochs(
        ...     network,
        ...     batches,
        ...     optimizer=sgd,
        ...     schedule=scheduler("fast", sgd, epochs=2, steps_in_epoch=2),
        ...     epochs=2,
        ...     after_step=lambda images, labels: None,
        ... )
        >>> [0 <= epoch.accuracy <= 100 for epoch in epochs]
        [True, True]
    """
    forward = network if forward is None else forward
    for epoch in range(first_epoch, epochs + 1):
        network.train()
        started = time.perf_counter()
        total = 0.0
        for step, (images, labels) in enumerate(batches.training(epoch), start=1):
            with arithmetic.autocast():
                loss = functional.cross_entropy(forward(images), labels)
            value = loss.item()
            if not isfinite(value):
                raise NonFiniteLossError(f"the training loss is {value} in epoch {epoch}, step {step}")
            optimizer.zero_grad()
            arithmetic.step(loss, optimizer)
            with arithmetic.steps_may_be_left_out():
                schedule.step()
            total += value * len(labels)
            after_step(images, labels)
        device = labels.device
        if device.type == "cuda":  # which is still at the last step
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        processes.share_buffers(network)
        right = processes.total(count_right(network, batches.test(), arithmetic), device)
        mean_loss = processes.total(total, device) / batches.images_per_epoch
        yield Epoch(mean_loss, per_cent(right, batches.test_images), seconds)
