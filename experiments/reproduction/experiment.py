"""One run: a network with one pooling, trained from one seed, with everything that is measured on the way and after."""

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcp_kernels.analysis import LandscapeRecorder, split

from ..datasets import ImageData, Part
from ..training import (
    STEM,
    Epoch,
    NonFiniteLossError,
    accuracy,
    build_network,
    fit,
    moved,
    scheduler,
    steps_per_epoch,
)
from ..training.batches import TEST_BATCH
from ..training.run import reproducible
from .corruptions import STRENGTHS, amounts, corrupted
from .flatness import measure_flatness
from .runs import CHOOSE, LONGER, MEASURE, Job, Run
from .settings import MOMENTUM, WEIGHT_DECAY, Settings, step_sizes, walk_every


def train_and_measure(
    job: Job,
    data: ImageData,
    settings: Settings,
    *,
    pooling: Callable[[int], Any] | None = None,
    others: Callable[[nn.Sequential], dict[str, float]] | None = None,
) -> Run:
    """Train a network and measure it; the same arguments give the same :class:`Run`.

    A job that chooses sees training and validation images only. Of a training that diverged the loss is infinite, and
    nothing else is measured.

    Args:
        job: what is run.
        data: what it is run on.
        settings: how.
        pooling: channels -> the layer, with ``out_features``; ``None`` for the pooling that the job names.
        others: further figures of a network that is measured, by name, when it is trained.
    """
    device = torch.device(settings.device)
    held_out = data.validation if job.kind == CHOOSE else data.test
    with reproducible(device):
        torch.manual_seed(job.seed)  # DropCov's masks come from it
        network = build_network(
            pooling or job.pool,
            job.seed,
            job.network,
            channels=data.channels,
            size=data.size,
            classes=len(data.classes),
        )
        network = moved(network, device)
        epochs: list[Epoch] = []
        walks: list[dict[str, float]] = []
        try:
            _train(network, job, data.train, held_out, settings, epochs, walks)
        except NonFiniteLossError:
            return Run(job, epochs, inf, [], {}, None)
        loss = mean_loss(network, held_out)
        if not isfinite(loss):  # of the last step of all
            return Run(job, epochs, inf, [], {}, None)
        if job.kind != MEASURE:
            return Run(job, epochs, loss, [], {}, None)
        return Run(
            job,
            epochs,
            loss,
            walks,
            accuracy_under_corruption(network, data.test.first(settings.corrupted_images), data.name),
            measure_flatness(
                network,
                data.train.first(settings.flatness_images),
                settings.hessian_iterations,
                settings.surface_directions,
            ),
            others(network) if others else {},
        )


def _train(
    network: nn.Sequential,
    job: Job,
    train: Part,
    held_out: Part,
    settings: Settings,
    epochs: list[Epoch],
    walks: list[dict[str, float]],
) -> None:
    """Train, and add to ``epochs``, and to the ``walks`` of what is measured."""
    optimizer = torch.optim.SGD(network.parameters(), lr=job.rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    recorder = LandscapeRecorder(
        *split(network, after=STEM),
        functional.cross_entropy,
        steps=step_sizes(settings, job.network),
        every=walk_every(settings, len(train)),
    )
    count = settings.epochs * (settings.longer if job.kind == LONGER else 1)
    for epoch in fit(
        network,
        train,
        held_out,
        optimizer=optimizer,
        schedule=scheduler(settings.schedule, optimizer, count, steps_per_epoch(len(train), settings.batch_size)),
        epochs=count,
        batch_size=settings.batch_size,
        seed=job.seed,
        after_step=recorder.step if job.kind == MEASURE else _nothing,
    ):
        epochs.append(epoch)
    walks += recorder.rows()


def _nothing(images: Tensor, labels: Tensor) -> None:
    pass


def mean_loss(network: nn.Module, part: Part) -> float:
    """Return the mean cross-entropy over a part, in evaluation mode."""
    network.eval()
    total = 0.0
    with torch.no_grad():
        for images, labels in zip(part.images.split(TEST_BATCH), part.labels.split(TEST_BATCH), strict=True):
            total += functional.cross_entropy(network(images), labels, reduction="sum").item()
    return total / len(part)


def accuracy_under_corruption(network: nn.Module, part: Part, data: str) -> dict[tuple[str, int], float]:
    """Measure accuracy in per cent by (corruption, strength); every network sees the same corrupted images.

    Nothing without images.
    """
    if not len(part):
        return {}
    return {
        (name, strength): accuracy(network, Part(corrupted(part.images, data, name, strength), part.labels))
        for name in amounts(data)
        for strength in STRENGTHS
    }
