"""One run: a trunk trained as classifier with one pooling, or not at all, then both detectors fine-tuned on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from gcp_kernels.integrations import backbone_state_dict

from ..datasets import ImageData, Part, load_dataset
from ..training import NonFiniteLossError
from .average_precision import average_precision
from .detectors import DETECTORS, build_classifier, build_detector, detect
from .scenes import Scene, draw_scenes
from .settings import DATA, Settings
from .training import (
    as_classified,
    classification_loss,
    classifier_optimizer,
    detection_loss,
    detector_optimizer,
    in_random_order,
    single_digits,
    train,
)

# What is compared of each detector.
COMPARED = {"mask": ("masks", "boxes"), "box": ("boxes",)}
# Of the scenes to test on, which are the same in all runs, and drawn with numbers that no scenes to learn from are.
TEST_SEED = 1_000_000
TEST_BATCH = 25


@dataclass(frozen=True)
class Choice:
    """How a classifier did with a rate: per cent of validation digits that it knows; ``None`` where it diverged."""

    pool: str
    rate: float
    accuracy: float | None


@dataclass(frozen=True)
class Precision:
    """COCO's average precision in per cent after an epoch, of what a detector found of ``compared``."""

    detector: str
    epoch: int
    compared: str
    AP: float
    AP50: float
    AP75: float


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        trunk: its pooling as a classifier, or "random".
        seed: of everything that was drawn.
        rate: largest learning rate of the classifier; ``None`` for a random trunk.
        accuracy: of the classifier on single test digits in per cent, at its end; ``None`` for a random trunk.
        losses: of each detector, the mean of every epoch.
        precisions: of each detector, on the test scenes.
    """

    trunk: str
    seed: int
    rate: float | None
    accuracy: float | None
    losses: dict[str, list[float]]
    precisions: list[Precision]


def choose(pool: str, rate: float, settings: Settings) -> Choice:
    """Train a classifier from the first seed that is not reported, and see how many validation digits it knows.

    torch's global random state is left alone.
    """
    data = _data()
    with torch.random.fork_rng(devices=[]):
        try:
            classifier = _trained_classifier(pool, settings.seeds, rate, data, settings)
        except NonFiniteLossError:
            return Choice(pool, rate, None)
        return Choice(pool, rate, _accuracy(classifier, data.validation, settings))


def train_and_measure(trunk: str, seed: int, rate: float | None, settings: Settings) -> Run:
    """Make one run; the same arguments give the same :class:`Run`, on one thread.

    torch's global random state is left alone.

    Args:
        trunk: a pooling of ``settings``, or "random".
        seed: of everything that is drawn.
        rate: largest learning rate of the classifier; ``None`` for a random trunk, which no classifier is trained on.
        settings: all else.

    Raises:
        NonFiniteLossError: a training diverged; the message says which.
        ImportError: a package is missing; the message says how to install it.
    """
    data = _data()
    with torch.random.fork_rng(devices=[]):
        part = "the classifier"
        try:
            weights = accuracy = None
            if rate is not None:
                classifier = _trained_classifier(trunk, seed, rate, data, settings)
                accuracy = _accuracy(classifier, data.test, settings)
                weights = backbone_state_dict(classifier)
            losses: dict[str, list[float]] = {}
            precisions: list[Precision] = []
            scenes = draw_scenes(data.train, settings.scenes, settings.layout, seed)
            for kind in DETECTORS:
                part = DETECTORS[kind]
                detector = build_detector(kind, len(data.classes), settings.layout.size, seed, weights)
                losses[kind] = []
                for epoch, loss in enumerate(_train_detector(detector, scenes, seed, settings), start=1):
                    losses[kind].append(loss)
                    if epoch % settings.test_every == 0 or epoch == settings.epochs:
                        precisions += _measured(detector, kind, epoch, data, settings)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{trunk}, seed {seed}, {part}: {error}") from error
    return Run(trunk, seed, rate, accuracy, losses, precisions)


def _trained_classifier(pool: str, seed: int, rate: float, data: ImageData, settings: Settings) -> nn.Module:
    classifier = build_classifier(pool, len(data.classes), settings.dim, seed)
    torch.manual_seed(seed)  # DropCov's masks come from it
    for _ in train(
        classifier,
        single_digits(data.train, settings.digits, settings.single, settings.classifier_batch, seed),
        classification_loss(classifier),
        optimizer=classifier_optimizer(classifier, rate),
        epochs=settings.classifier_epochs,
        steps_in_epoch=-(-settings.digits // settings.classifier_batch),
    ):
        pass
    return classifier


@torch.no_grad()
def _accuracy(classifier: nn.Module, digits: Part, settings: Settings) -> float:
    """Return the per cent of single digits that the classifier, in evaluation mode, gives their label."""
    classifier.eval()
    images, labels = as_classified(draw_scenes(digits, settings.test_digits, settings.single, TEST_SEED))
    right = sum(
        int((classifier(some).argmax(1) == theirs).sum())
        for some, theirs in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True)
    )
    return 100 * right / len(labels)


def _train_detector(detector: nn.Module, scenes: list[Scene], seed: int, settings: Settings) -> Iterator[float]:
    torch.manual_seed(seed)  # anchors and proposals to learn from are sampled with it
    return train(
        detector,
        in_random_order(scenes, settings.batch, seed),
        detection_loss(detector),
        optimizer=detector_optimizer(detector, settings.rate),
        epochs=settings.epochs,
        steps_in_epoch=-(-len(scenes) // settings.batch),
    )


def _measured(detector: nn.Module, kind: str, epoch: int, data: ImageData, settings: Settings) -> list[Precision]:
    scenes = draw_scenes(data.test, settings.test_scenes, settings.layout, TEST_SEED)
    found = detect(detector, scenes, TEST_BATCH)
    return [
        Precision(kind, epoch, compared, **average_precision(scenes, found, compared, len(data.classes)))
        for compared in COMPARED[kind]
    ]


@cache
def _data() -> ImageData:
    return load_dataset(DATA, torch.device("cpu"))
