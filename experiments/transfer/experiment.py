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


# The training before those of the detectors.
CLASSIFIER = "classifier"
# When a training diverged.
CHOOSING, MEASURED = "choosing", "measured"


@dataclass(frozen=True)
class Choice:
    """How a training to choose a rate by went, on what is drawn with digits of the validation part.

    Attributes:
        trunk: its pooling as a classifier, or "random".
        classifier_rate: largest learning rate of the classifier; ``None`` for a random trunk.
        detector_rate: that of Mask R-CNN on its trunk; ``None`` where the classifier's is chosen, without a detector.
        validation: in per cent the digits that the classifier knows, or AP of masks; ``None`` where it diverged.
        diverged: "choosing" where it did, "measured" where a run with the rate did later; else nothing.
    """

    trunk: str
    classifier_rate: float | None
    detector_rate: float | None
    validation: float | None
    diverged: str = ""


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
        classifier_rate: largest learning rate of the classifier; ``None`` for a random trunk.
        detector_rate: that of both detectors.
        accuracy: of the classifier on single test digits in per cent, at its end; ``None`` for a random trunk.
        losses: of each detector, the mean of every epoch.
        precisions: of each detector, on the test scenes.
        diverged: the training that did, "classifier", "mask" or "box", behind which nothing was done; else nothing.
    """

    trunk: str
    seed: int
    classifier_rate: float | None
    detector_rate: float
    accuracy: float | None
    losses: dict[str, list[float]]
    precisions: list[Precision]
    diverged: str = ""


def choose_classifier(pool: str, rate: float, settings: Settings) -> Choice:
    """Train a classifier from the first seed that is not reported, and see how many validation digits it knows.

    torch's global random state is left alone.
    """
    data = _data()
    with torch.random.fork_rng(devices=[]):
        try:
            classifier = _trained_classifier(pool, settings.seeds, rate, data, settings)
        except NonFiniteLossError:
            return Choice(pool, rate, None, None, CHOOSING)
        return Choice(pool, rate, None, _accuracy(classifier, data.validation, settings))


def choose_detectors(trunk: str, classifier_rate: float | None, rate: float, settings: Settings) -> Choice:
    """Train Mask R-CNN from the same seed, on the trunk of its classifier, and measure AP of masks at the end.

    On scenes with digits of the validation part. torch's global random state is left alone.
    """
    data = _data()
    seed = settings.seeds
    with torch.random.fork_rng(devices=[]):
        try:
            weights = None
            if classifier_rate is not None:
                weights = backbone_state_dict(_trained_classifier(trunk, seed, classifier_rate, data, settings))
            detector = build_detector("mask", len(data.classes), settings.layout.size, seed, weights)
            scenes = draw_scenes(data.train, settings.scenes, settings.layout, seed)
            for _ in _train_detector(detector, scenes, seed, rate, settings):
                pass
        except NonFiniteLossError:
            return Choice(trunk, classifier_rate, rate, None, CHOOSING)
        (masks, _) = _measured(detector, "mask", settings.epochs, data.validation, len(data.classes), settings)
        return Choice(trunk, classifier_rate, rate, masks.AP)


def train_and_measure(
    trunk: str, seed: int, classifier_rate: float | None, detector_rate: float, settings: Settings
) -> Run:
    """Make one run; the same arguments give the same :class:`Run`, on one thread.

    A training that diverges ends it. torch's global random state is left alone.

    Args:
        trunk: a pooling of ``settings``, or "random".
        seed: of everything that is drawn.
        classifier_rate: largest learning rate of the classifier; ``None`` for a random trunk, which has none.
        detector_rate: that of both detectors.
        settings: all else.

    Raises:
        ImportError: a package is missing; the message says how to install it.
    """
    data = _data()
    weights = accuracy = None
    losses: dict[str, list[float]] = {}
    precisions: list[Precision] = []
    diverged, training = "", CLASSIFIER
    with torch.random.fork_rng(devices=[]):
        try:
            if classifier_rate is not None:
                classifier = _trained_classifier(trunk, seed, classifier_rate, data, settings)
                accuracy = _accuracy(classifier, data.test, settings)
                weights = backbone_state_dict(classifier)
            scenes = draw_scenes(data.train, settings.scenes, settings.layout, seed)
            for training in DETECTORS:
                detector = build_detector(training, len(data.classes), settings.layout.size, seed, weights)
                own = losses[training] = []
                for loss in _train_detector(detector, scenes, seed, detector_rate, settings):
                    own.append(loss)
                    if len(own) % settings.test_every == 0 or len(own) == settings.epochs:
                        precisions += _measured(detector, training, len(own), data.test, len(data.classes), settings)
        except NonFiniteLossError:
            diverged = training
    return Run(trunk, seed, classifier_rate, detector_rate, accuracy, losses, precisions, diverged)


def _trained_classifier(pool: str, seed: int, rate: float, data: ImageData, settings: Settings) -> nn.Module:
    classifier = build_classifier(pool, len(data.classes), settings.dim, seed)
    torch.default_generator.manual_seed(seed)  # DropCov's masks come from it
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


def _train_detector(
    detector: nn.Module, scenes: list[Scene], seed: int, rate: float, settings: Settings
) -> Iterator[float]:
    torch.default_generator.manual_seed(seed)  # anchors and proposals to learn from are sampled with it
    return train(
        detector,
        in_random_order(scenes, settings.batch, seed),
        detection_loss(detector),
        optimizer=detector_optimizer(detector, rate),
        epochs=settings.epochs,
        steps_in_epoch=-(-len(scenes) // settings.batch),
    )


def _measured(
    detector: nn.Module, kind: str, epoch: int, digits: Part, classes: int, settings: Settings
) -> list[Precision]:
    scenes = draw_scenes(digits, settings.test_scenes, settings.layout, TEST_SEED)
    found = detect(detector, scenes, TEST_BATCH)
    return [
        Precision(kind, epoch, compared, **average_precision(scenes, found, compared, classes))
        for compared in COMPARED[kind]
    ]


@cache
def _data() -> ImageData:
    return load_dataset(DATA, torch.device("cpu"))
