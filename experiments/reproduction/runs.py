"""What a run gave, and the file that keeps it: an interrupted reproduction goes on where it was."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gcp_kernels.commands.atomic_files import write_text

from ..training import Epoch
from .flatness import Flatness
from .settings import Settings

# To choose a learning rate by validation images; to be reported on; average pooling for more epochs.
CHOOSE, MEASURE, LONGER = "choose", "measure", "longer"


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        kind: ``CHOOSE``, ``MEASURE`` or ``LONGER``.
        network: of ``experiments.training.BACKBONES``.
        pool: of ``gcp_kernels.nn.poolings.POOLINGS``.
        seed: of the weights, the order of the images and DropCov's masks.
        rate: the learning rate at the start.
    """

    kind: str
    network: str
    pool: str
    seed: int
    rate: float

    def __str__(self) -> str:
        return f"{self.kind} {self.network}, {self.pool}, rate {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        job: what was run.
        epochs: loss and accuracy after each: on validation images of ``CHOOSE``, on test images of the others.
        loss: mean cross-entropy on the same images at the end; infinite where training diverged, which ``CHOOSE`` may.
        walks: rows of :meth:`gcp_kernels.analysis.LandscapeRecord.row`, one for every recorded step of ``MEASURE``.
        robustness: of ``MEASURE``, test accuracy in per cent by (corruption, strength), at the end.
        flatness: of ``MEASURE``, around the weights at the end.
    """

    job: Job
    epochs: list[Epoch]
    loss: float
    walks: list[dict[str, float]]
    robustness: dict[tuple[str, int], float]
    flatness: Flatness | None

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
    def accuracy(self) -> float:
        """At the end, in per cent; 0 where training diverged before the first epoch was over."""
        return self.epochs[-1].accuracy if self.epochs else 0.0

    def to_json(self) -> str:
        """Write all of it on one line."""
        plain = asdict(self)
        plain["robustness"] = [[name, strength, value] for (name, strength), value in self.robustness.items()]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, line: str) -> "Run":
        """Read what :meth:`to_json` wrote."""
        plain: dict[str, Any] = json.loads(line)
        flat = plain["flatness"]
        return cls(
            job=Job(**plain["job"]),
            epochs=[Epoch(**epoch) for epoch in plain["epochs"]],
            loss=plain["loss"],
            walks=plain["walks"],
            robustness={(name, strength): value for name, strength, value in plain["robustness"]},
            flatness=None if flat is None else Flatness(**{**flat, "surface": tuple(map(tuple, flat["surface"]))}),
        )


class RunFile:
    """The runs that are done, each a line behind one with the settings and the versions.

    Args:
        path: of a file that may be there.
        settings: of all runs in it.
        versions: what else decides what a run gives, by name; the data among it.

    Raises:
        ValueError: the file is of other settings or versions, which are named, or is no such file.
    """

    def __init__(self, path: Path, settings: Settings, versions: Mapping[str, str]) -> None:
        self.path = path
        self.done: dict[Job, Run] = {}
        head = {"settings": settings.to_save(), "versions": dict(versions)}
        if not path.exists():
            write_text(path, json.dumps(head) + "\n")
            return
        text = path.read_text(encoding="utf-8")
        # The last line may have been cut off; it is run again.
        first, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
        try:
            written = json.loads(first)
            kept = {**written["settings"], **written["versions"]}
            runs = [Run.from_json(line) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not what this version writes: {error}") from None
        asked = {**head["settings"], **head["versions"]}
        if different := [
            f"{name} is {kept.get(name)!r} there, not {asked.get(name)!r}"
            for name in sorted(kept.keys() | asked.keys())
            if kept.get(name) != asked.get(name)
        ]:
            raise ValueError(f"{path} is of another run: {'; '.join(different)}")
        self.done = {run.job: run for run in runs}
        write_text(path, "".join(f"{line}\n" for line in (first, *lines)))

    def add(self, run: Run) -> None:
        """Keep a run, in memory and on disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(run.to_json() + "\n")
        self.done[run.job] = run
