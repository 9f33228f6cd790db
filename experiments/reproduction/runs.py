"""What is run, and what a run gave."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from ..training import Epoch
from .flatness import Flatness

# To choose a learning rate by validation images; to be reported on; average pooling for more epochs.
CHOOSE, MEASURE, LONGER = "choose", "measure", "longer"


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        kind: ``CHOOSE``, ``MEASURE`` or ``LONGER``.
        network: of ``experiments.training.BACKBONES``.
        pool: of ``gcp_kernels.nn.poolings.POOLINGS``, or of ``experiments.roots.roots.ROOTS``.
        seed: of the weights, the order of the images and DropCov's masks.
        rate: the learning rate at the start.
    """

    kind: str
    network: str
    pool: str
    seed: int
    rate: float

    def __str__(self) -> str:
        return f"{self.kind} {self.network}, {self.pool}, rate {self.rate}, seed {self.seed}"


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        job: what was run.
        epochs: training loss of each, and accuracy after it: on validation images of ``CHOOSE``, on test images of the
            others.
        loss: mean cross-entropy on those images at the end; infinite where training diverged.
        walks: rows of :meth:`gcp_kernels.analysis.LandscapeRecord.row`, one for every recorded step of ``MEASURE``.
        robustness: of ``MEASURE``, test accuracy in per cent by (corruption, strength), at the end.
        flatness: of ``MEASURE``, around the weights at the end.
        others: of ``MEASURE``, figures that only some experiments have, by name.
    """

    job: Job
    epochs: list[Epoch]
    loss: float
    walks: list[dict[str, float]]
    robustness: dict[tuple[str, int], float]
    flatness: Flatness | None
    others: dict[str, float] = field(default_factory=dict)

    @property
    def network(self) -> str:
        return self.job.network

    @property
    def pool(self) -> str:
        return self.job.pool

    @property
    def seed(self) -> int:
        return self.job.seed

    @property
    def diverged(self) -> bool:
        return not isfinite(self.loss)

    @property
    def accuracy(self) -> float:
        """At the end, in per cent; 0 where training diverged before the first epoch was over."""
        return self.epochs[-1].accuracy if self.epochs else 0.0

    def to_save(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        robustness = [[name, strength, value] for (name, strength), value in self.robustness.items()]
        return {**asdict(self), "robustness": robustness}

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> "Run":
        """Make the run that :meth:`to_save` described."""
        flat = saved["flatness"]
        return cls(
            job=Job(**saved["job"]),
            epochs=[Epoch(**epoch) for epoch in saved["epochs"]],
            loss=saved["loss"],
            walks=saved["walks"],
            robustness={(name, strength): value for name, strength, value in saved["robustness"]},
            flatness=None if flat is None else Flatness(**{**flat, "surface": tuple(map(tuple, flat["surface"]))}),
            others=saved.get("others", {}),
        )


def of_kind(kind: str, runs: Iterable[Run]) -> list[Run]:
    """Return the runs of a kind that did not diverge."""
    return [run for run in runs if run.job.kind == kind and not run.diverged]
