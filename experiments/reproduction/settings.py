"""What is run, and what of it for each data set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gcp_kernels.analysis import PUBLISHED_STEPS, evenly_spaced
from gcp_kernels.nn.poolings import BASELINE, PUBLISHED_POOLINGS

from ..datasets import digits
from ..training import BACKBONES, learning_rate_factor, steps_per_epoch

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WALKS = 20


@dataclass(frozen=True)
class Settings:
    """The options of a reproduction; ``DEFAULTS`` has those of each data set.

    Attributes:
        data: a name or a folder, for :func:`experiments.datasets.load_dataset`.
        image_size: of a folder of images.
        images: of each part of the data, all if ``None``.
        networks: of ``experiments.training.BACKBONES``.
        pools: of ``gcp_kernels.nn.poolings.POOLINGS``, with average pooling.
        rates: the learning rates that each pooling of each network chooses from, by validation images.
        extensions: how many times a grid gets one rate more, half of its lowest or twice its highest, where that is the
            best.
        choosing_seeds: how many seeds choose; none of them is measured.
        seeds: how many are measured.
        epochs: over how many the schedule is stretched.
        longer: average pooling is trained for so many times the epochs, too.
        schedule: of the learning rate. Chosen by validation images: with their best rates average pooling, GCP and
            DropCov have 98.9, 99.2 and 98.1 % of digits under "adju", and 98.1, 98.9 and 97.6 % under "fast", whose
            rate falls before average pooling has learnt.
        batch_size: images of a step.
        landscape_every: training steps from one walk along the gradient to the next; ``None`` for so many that a
            training has about ``WALKS`` of them (:func:`walk_every`).
        landscape_range: of the step sizes d of a walk; ``None`` is the published one: MobileNetV2's for MobileNetV2,
            that of ResNets for the others, where it serves too: at 0.1 the loss stays as it is, at 75 it has grown
            severalfold for average pooling on digits.
        landscape_steps: points of a walk.
        corrupted_images: test images that are corrupted, all if ``None``; 0 for no corruptions.
        flatness_images: training images for the curvature.
        hessian_iterations: of power iteration.
        surface_directions: random ones, to look around in.
        device: of the networks, by its name.
    """

    data: str = "digits"
    image_size: int | None = None
    images: int | None = None
    networks: tuple[str, ...] = ("cnn",)
    pools: tuple[str, ...] = (BASELINE, *PUBLISHED_POOLINGS)
    rates: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.4)
    extensions: int = 3
    choosing_seeds: int = 2
    seeds: int = 5
    epochs: int = 15
    longer: int = 2
    schedule: str = "adju"
    batch_size: int = digits.BATCH_SIZE
    landscape_every: int | None = None
    landscape_range: tuple[float, float] | None = None
    landscape_steps: int = 10
    corrupted_images: int | None = None
    flatness_images: int = 256
    hessian_iterations: int = 20
    surface_directions: int = 5
    device: str = "cpu"


_LARGER = Settings(
    data="mnist", networks=tuple(BACKBONES), choosing_seeds=1, epochs=10, batch_size=50, corrupted_images=1000,
)  # fmt: skip
DEFAULTS: Mapping[str, Settings] = {
    "digits": Settings(),
    "mnist": _LARGER,
    "typefaces": replace(_LARGER, data="typefaces", epochs=15),
}


def defaults(data: str) -> Settings:
    """Return the settings of a data set; those of a folder of images are those of mnist."""
    return DEFAULTS.get(data, replace(_LARGER, data=data))


def small(settings: Settings) -> Settings:
    """Return less of the same, for minutes: one network, three seeds, of which verdicts can be given."""
    return replace(settings, networks=("cnn",), choosing_seeds=1, seeds=3, corrupted_images=500)


def check(settings: Settings) -> Settings:
    """Return so little that it shows within seconds that everything works."""
    return replace(
        settings, images=120, networks=("cnn",), rates=(0.1, 0.2), extensions=0, choosing_seeds=1, seeds=2, epochs=2,
        batch_size=30, landscape_every=4, landscape_steps=3, corrupted_images=60, flatness_images=30,
        hessian_iterations=3, surface_directions=1,
    )  # fmt: skip


def others(settings: Settings) -> list[str]:
    """Return the poolings that are held against average pooling."""
    return [pool for pool in settings.pools if pool != BASELINE]


def ends_at_rate_zero(settings: Settings) -> bool:
    """Return whether the schedule has rate zero in the last epoch, so that nothing is learnt in it."""
    return learning_rate_factor(settings.schedule, settings.epochs, settings.epochs) == 0


def walk_every(settings: Settings, images: int) -> int:
    """Return how many training steps, with so many training images, are from one walk to the next."""
    steps = settings.epochs * steps_per_epoch(images, settings.batch_size)
    return settings.landscape_every or max(1, round(steps / WALKS))


def step_sizes(settings: Settings, network: str) -> tuple[float, ...]:
    """Return the step sizes d of a walk along the gradient of a network."""
    published = PUBLISHED_STEPS[BACKBONES[network].walk]
    return evenly_spaced(*settings.landscape_range or (published[0], published[-1]), settings.landscape_steps)


def processes(device: str) -> int:
    """Return how many runs go on at a time unless told: one for each core of a CPU, one on a GPU."""
    return len(os.sched_getaffinity(0)) if device == "cpu" else 1
