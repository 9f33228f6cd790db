"""Runs of the reproduction as data, so that tests of tables, verdicts and reports need no training."""

from math import inf

import torch

from experiments.datasets import ImageData, Part
from experiments.reproduction.corruptions import DIGITS, STRENGTHS
from experiments.reproduction.flatness import Flatness
from experiments.reproduction.runs import CHOOSE, LONGER, MEASURE, Job, Run
from experiments.training import Epoch

_IMAGES = Part(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
DATA = ImageData("digits", _IMAGES, _IMAGES, _IMAGES, ("a", "b"), "made up", "none")


def made_run(
    pool: str,
    seed: int,
    accuracies: tuple[float, ...] = (90.0, 95.0),
    corrupted: float = 80.0,
    band: float = 1.0,
    distance: float = 0.5,
    eigenvalue: float = 2.0,
    rise: float = 0.25,
    network: str = "cnn",
) -> Run:
    """Make a run whose two walks have the loss range, the largest distance and (as beta) a tenth of that given."""
    walk = {"loss": 0.5, "gradient_norm": 0.25, "loss_min": 0.5, "distance_min": 0.0, "beta": distance / 10}
    walks = [walk | {"step": step, "loss_max": 0.5 + band, "distance_max": distance} for step in (2, 4)]
    return Run(
        job=Job(MEASURE, network, pool, seed, 0.1),
        epochs=[Epoch(1.0 / number, accuracy, 0.1) for number, accuracy in enumerate(accuracies, 1)],
        loss=0.75,
        walks=walks,
        robustness={(name, strength): corrupted for name in DIGITS for strength in STRENGTHS},
        flatness=Flatness(0.125, eigenvalue, 0.01, ((0.125 + rise,) * 4,)),
    )


def choosing_run(pool: str, rate: float, accuracy: float, loss: float = 0.5, seed: int = 1000) -> Run:
    """Make a run that chooses a rate; without an accuracy it diverged in the first epoch."""
    epochs, loss = ([], inf) if accuracy == 0 else ([Epoch(loss, accuracy, 0.1)], loss)
    return Run(Job(CHOOSE, "cnn", pool, seed, rate), epochs, loss, [], {}, None)


def longer_run(seed: int, accuracy: float) -> Run:
    """Make a run of average pooling for more epochs."""
    return Run(Job(LONGER, "cnn", "avg", seed, 0.1), [Epoch(0.1, accuracy, 0.1)], 0.1, [], {}, None)
