"""Training of classifiers on single digits, and of detectors on scenes: one loop, and the batches of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isfinite
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from ..datasets import Part
from ..training import NonFiniteLossError
from .detectors import images_of, targets_of
from .scenes import Layout, Scene, draw_scenes

Batch = TypeVar("Batch")
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
# The rate rises to its largest value over so much of the training, and falls to nothing along a cosine.
WARM_UP = 0.1
# Between the seeds of two runs: each of their epochs draws with one of its own.
EPOCHS_APART = 1000


def train(
    module: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    loss_of: Callable[[Batch], Tensor],
    *,
    optimizer: Optimizer,
    epochs: int,
    steps_in_epoch: int,
) -> Iterator[float]:
    """Train in place, yielding the mean loss of the steps after each epoch.

    Args:
        module: whose parameters learn; it is put into training mode for each epoch.
        batches: what the steps of an epoch, counted from 1, are made on; ``steps_in_epoch`` of them.
        loss_of: of one of these.
        optimizer: of its parameters, with the largest learning rate.
        epochs: how many.
        steps_in_epoch: how many.

    Raises:
        NonFiniteLossError: after the forward pass; the parameters are those before the step.
    """
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        optimizer.param_groups[0]["lr"],
        total_steps=epochs * steps_in_epoch,
        pct_start=WARM_UP,
        cycle_momentum=False,
    )
    for epoch in range(1, epochs + 1):
        module.train()
        losses = []
        for batch in batches(epoch):
            loss = loss_of(batch)
            losses.append(loss.item())
            if not isfinite(losses[-1]):
                raise NonFiniteLossError(f"the training loss is {losses[-1]} in epoch {epoch}, step {len(losses)}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield sum(losses) / len(losses)


def classifier_optimizer(classifier: nn.Module, rate: float) -> Optimizer:
    """Return SGD, with which the papers train."""
    return SGD(classifier.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def detector_optimizer(detector: nn.Module, rate: float) -> Optimizer:
    """Return AdamW: its steps are as long for layers that begin anew as for those of the trunk.

    Fused, for on a CPU it is otherwise a fifth of a step of so few scenes.
    """
    return AdamW(detector.parameters(), lr=rate, weight_decay=WEIGHT_DECAY, fused=True)


def single_digits(
    digits: Part, count: int, layout: Layout, batch_size: int, seed: int
) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Return what draws the batches (images (B, 3, H, W), labels (B,)) of an epoch: scenes with one digit, new each."""

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        scenes = draw_scenes(digits, count, layout, EPOCHS_APART * seed + epoch)
        images, labels = as_classified(scenes)
        return zip(images.split(batch_size), labels.split(batch_size), strict=True)

    return batches


def as_classified(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return images (n, 3, H, W) and labels (n,) of scenes with one digit each."""
    return torch.stack(images_of(scenes)), torch.cat([scene.labels for scene in scenes])


def classification_loss(network: nn.Module) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    """Return the loss of a batch of :func:`single_digits`."""
    return lambda batch: functional.cross_entropy(network(batch[0]), batch[1])


def in_random_order(scenes: Sequence[Scene], batch_size: int, seed: int) -> Callable[[int], Iterator[list[Scene]]]:
    """Return what gives the batches of an epoch: all scenes, in an order that is a function of seed and epoch."""

    def batches(epoch: int) -> Iterator[list[Scene]]:
        generator = torch.Generator().manual_seed(EPOCHS_APART * seed + epoch)
        order = torch.randperm(len(scenes), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield [scenes[number] for number in order[start : start + batch_size]]

    return batches


def detection_loss(detector: nn.Module) -> Callable[[list[Scene]], Tensor]:
    """Return the sum of the losses that torchvision's detector has for a batch of scenes."""
    return lambda scenes: torch.stack(list(detector(images_of(scenes), targets_of(scenes)).values())).sum()
