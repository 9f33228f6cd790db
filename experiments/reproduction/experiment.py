"""One run: a network with one pooling, trained from one seed, with everything that is measured on the way and after."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from gcp_kernels.analysis import LandscapeRecorder, evenly_spaced, split
from gcp_kernels.nn.poolings import BASELINE, PUBLISHED_POOLINGS

from ..training import DigitsSplit, Epoch, accuracy, build_network, fit, scheduler, steps_per_epoch
from ..training.digits import BATCH_SIZE
from ..training.run import reproducible
from .corruptions import NAMES, STRENGTHS, corrupted
from .flatness import Flatness, measure_flatness

# Mean final test accuracy over seeds 0 to 2 at 0.05, 0.1, 0.2, 0.4 with the defaults below: average pooling 95.8, 97.7,
# 98.2, 97.7; GCP 97.7, 98.7, 98.9, 98.9; DropCov 98.0, 98.1, 98.0, 97.4. What is best for average pooling is as good
# as any for GCP, and costs DropCov less than its seeds differ by (0.4).
LEARNING_RATE = 0.2
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
# The end of the stem: first convolution, BatchNorm and ReLU of the small CNN, (B, 32, 8, 8).
STEM = "0.2"


@dataclass(frozen=True)
class Settings:
    """What is run; the defaults are those of the command.

    The published ``landscape_range`` of ResNets serves here too: from d = 0.1, where the loss stays as it is, to 75,
    where it has grown two- to fourfold for average pooling; it levels off beyond 200.
    """

    pools: tuple[str, ...] = (BASELINE, *PUBLISHED_POOLINGS)
    seeds: int = 5
    epochs: int = 15
    schedule: str = "fast"
    batch_size: int = BATCH_SIZE
    landscape_every: int = 10
    landscape_range: tuple[float, float] = (0.1, 75.0)
    landscape_steps: int = 10
    test_images: int | None = None  # None: all
    flatness_images: int = 256
    hessian_iterations: int = 20
    surface_directions: int = 5
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        pool: which pooling.
        seed: of the weights, the order of the images and DropCov's masks.
        epochs: loss and test accuracy after each.
        walks: rows of :meth:`gcp_kernels.analysis.LandscapeRecord.row`, one for every recorded training step.
        robustness: test accuracy in per cent by (corruption, strength), at the end.
        flatness: around the weights at the end.
    """

    pool: str
    seed: int
    epochs: list[Epoch]
    walks: list[dict[str, float]]
    robustness: dict[tuple[str, int], float]
    flatness: Flatness


def train_and_measure(
    pool: str, seed: int, digits: DigitsSplit, settings: Settings, progress: Callable[[], object]
) -> Run:
    """Train a network with ``pool`` from ``seed`` and measure it; the same arguments give the same :class:`Run`.

    ``progress`` is called after every training step.
    """
    with reproducible(settings.device):
        torch.manual_seed(seed)  # DropCov's masks come from it
        network = build_network(pool, seed).to(settings.device)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        recorder = LandscapeRecorder(
            *split(network, after=STEM),
            functional.cross_entropy,
            steps=evenly_spaced(*settings.landscape_range, settings.landscape_steps),
            every=settings.landscape_every,
        )

        def after_step(images: torch.Tensor, labels: torch.Tensor) -> None:
            recorder.step(images, labels)
            progress()

        steps = steps_per_epoch(len(digits.train_labels), settings.batch_size)
        epochs = fit(
            network,
            digits,
            optimizer=optimizer,
            schedule=scheduler(settings.schedule, optimizer, settings.epochs, steps),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=seed,
            after_step=after_step,
        )
        return Run(
            pool=pool,
            seed=seed,
            epochs=list(epochs),
            walks=recorder.rows(),
            robustness=accuracy_under_corruption(network, digits),
            flatness=measure_flatness(
                network,
                digits.train_images[: settings.flatness_images],
                digits.train_labels[: settings.flatness_images],
                settings.hessian_iterations,
                settings.surface_directions,
            ),
        )


def accuracy_under_corruption(network: nn.Module, digits: DigitsSplit) -> dict[tuple[str, int], float]:
    """Measure test accuracy in per cent by (corruption, strength); every network sees the same corrupted images."""
    return {
        (name, strength): accuracy(network, corrupted(digits.test_images, name, strength), digits.test_labels)
        for name in NAMES
        for strength in STRENGTHS
    }
