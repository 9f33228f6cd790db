"""Runs of the reproduction as data, so that tests of tables, verdicts and reports need no training."""

from experiments.reproduction.corruptions import NAMES, STRENGTHS
from experiments.reproduction.experiment import Run
from experiments.reproduction.flatness import Flatness
from experiments.training import Epoch


def made_run(
    pool: str,
    seed: int,
    accuracies: tuple[float, ...] = (90.0, 95.0),
    corrupted: float = 80.0,
    band: float = 1.0,
    distance: float = 0.5,
    eigenvalue: float = 2.0,
    rise: float = 0.25,
) -> Run:
    """Make a run whose two walks have the loss range, the largest distance and (as beta) a tenth of that given."""
    walk = {"loss": 0.5, "gradient_norm": 0.25, "loss_min": 0.5, "distance_min": 0.0, "beta": distance / 10}
    walks = [walk | {"step": step, "loss_max": 0.5 + band, "distance_max": distance} for step in (2, 4)]
    return Run(
        pool=pool,
        seed=seed,
        epochs=[Epoch(1.0 / number, accuracy, 0.1) for number, accuracy in enumerate(accuracies, 1)],
        walks=walks,
        robustness={(name, strength): corrupted for name in NAMES for strength in STRENGTHS},
        flatness=Flatness(0.125, eigenvalue, 0.01, ((0.125 + rise,) * 4,)),
    )
