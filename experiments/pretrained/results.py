"""What an experiment gave, as data, and the CSV files that it is written to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, nan, sqrt
from pathlib import Path
from statistics import fmean

from gcp_kernels.commands.atomic_files import write_table
from gcp_kernels.nn.poolings import BASELINE

from ..reproduction.claims import SUPPORTED, UNDECIDED, Measure, Verdict, spread, student, verdict
from .costs import Cost
from .experiment import STAGES, Outcome, Settings, Trial, as_bits
from .heads import AVERAGE, Head
from .preparation import Kept

ACCURACY = Measure(4, "accuracy", "final test accuracy, %", higher_is_better=True)
Costs = Mapping[str, Cost]
Row = Mapping[str, object]


@dataclass(frozen=True)
class About:
    """What the report says of a data set.

    Attributes:
        classes: how many.
        source, licence: of the images.
        images: how many, by part.
        image: height and width, before they were brought to another size.
        feature_map: C, h and w of the frozen network's features.
    """

    classes: int
    source: str
    licence: str
    images: Mapping[str, int]
    image: tuple[int, int]
    feature_map: tuple[int, int, int]


def about(kept: Kept) -> About:
    """Describe a data set whose features are kept."""
    parts = {"training": kept.train, "validation": kept.validation, "test": kept.test}
    height, width = kept.train.images.shape[-2:]
    channels, rows, columns = kept.train.features.shape[1:]
    return About(
        classes=len(kept.classes),
        source=kept.source,
        licence=kept.licence,
        images={name: len(part.labels) for name, part in parts.items()},
        image=(height, width),
        feature_map=(channels, rows, columns),
    )


@dataclass
class Results:
    """Everything that tables and report are written from.

    Attributes:
        settings: what was run.
        about: the data sets.
        grid: the runs that the learning rates were chosen by, judged on validation.
        rates: what was chosen, by stage, data set and pooling.
        final: the runs with those rates, judged on test.
        costs: of each pooling, by its name.
    """

    settings: Settings
    about: dict[str, About] = field(default_factory=dict)
    grid: dict[Trial, Outcome] = field(default_factory=dict)
    rates: dict[tuple[str, str, Head], float] = field(default_factory=dict)
    final: dict[Trial, Outcome] = field(default_factory=dict)
    costs: Costs = field(default_factory=dict)

    def comparisons(self) -> list[tuple[str, str]]:
        """Return data set and stage of everything that was compared."""
        return [(data, stage) for data in self.settings.data for stage in STAGES if self.settings.heads(stage)]

    def tried(self, stage: str, data: str, head: Head) -> list[float]:
        """Return the learning rates that were tried of a pooling."""
        return [trial.rate for trial in self.grid if (trial.stage, trial.data, trial.head) == (stage, data, head)]

    def accuracies(self, stage: str, data: str, head: Head) -> list[float]:
        """Return the test accuracies in per cent, in the order of the seeds."""
        return [outcome.accuracy for outcome in self._tested(stage, data, head)]

    def _tested(self, stage: str, data: str, head: Head) -> list[Outcome]:
        rate = self.rates[stage, data, head]
        seeds = range(self.settings.seeds(stage))
        return [self.final[Trial(stage, data, head, rate, seed, "test")] for seed in seeds]

    def verdict(self, stage: str, data: str, head: Head, against: Head = AVERAGE) -> Verdict:
        """Apply the rule of verdicts to the test accuracies of a pooling and another one.

        All seeds are judged on the same images, whose choice is no part of what differs between seeds: the margin is
        the root of the sum of squares of that over seeds and :meth:`margin_of_images`.
        """
        over_seeds = verdict(
            ACCURACY, head.name, self.accuracies(stage, data, against), self.accuracies(stage, data, head)
        )
        margin = hypot(over_seeds.margin, self.margin_of_images(stage, data, head, against))
        decided = over_seeds.outcome != SUPPORTED or over_seeds.gain > margin
        return replace(over_seeds, margin=margin, outcome=over_seeds.outcome if decided else UNDECIDED)

    def margin_of_images(self, stage: str, data: str, head: Head, against: Head = AVERAGE) -> float:
        """Return what the mean gain, in points, may be by the choice of the test images; NaN where a run diverged.

        Of each image the gain is the mean over seeds; the margin is Student's 97.5 % quantile times their standard
        error.
        """
        rights = [self._right(stage, data, one) for one in (head, against)]
        if not all(rights):
            return nan
        ours, theirs = ([fmean(of_image) for of_image in zip(*of_seeds, strict=True)] for of_seeds in rights)
        gains = [100 * (our - their) for our, their in zip(ours, theirs, strict=True)]
        return student(len(gains) - 1) * spread(gains) / sqrt(len(gains))

    def _right(self, stage: str, data: str, head: Head) -> list[list[int]]:
        """Return, by seed and test image, whether it was recognised; nothing where a run diverged."""
        count = self.about[data].images["test"]
        found = [outcome.right for outcome in self._tested(stage, data, head)]
        return [as_bits(right, count) for right in found] if all(found) else []

    def compared(self) -> list[tuple[str, str, Head, Head]]:
        """Return data set, stage, pooling and what it is compared with, of all verdicts.

        Every pooling against average pooling, every reduction against none, where both were run behind the frozen
        network, and every covariance pooling against average pooling behind the same reduction.
        """
        found = [
            (data, stage, head, AVERAGE)
            for data, stage in self.comparisons()
            for head in others(self.settings.heads(stage))
        ]
        for against in (without_reduction, same_reduction):
            found += [
                (data, stage, head, other)
                for data, stage in self.comparisons()
                for head in others(self.settings.heads(stage))
                if (other := against(head)) not in (None, AVERAGE, head) and other in self.settings.heads(stage)
            ]
        return found


def write_tables(folder: Path, results: Results) -> None:
    """Write ``accuracy.csv``, ``learning_rates.csv``, ``verdicts.csv`` and ``costs.csv`` into an existing folder."""
    tables: dict[str, list[Row]] = {
        "accuracy": outcome_rows(results.final),
        "learning_rates": outcome_rows(results.grid),
        "verdicts": verdict_rows(results),
        "costs": [
            {"pooling": name, "milliseconds": cost.milliseconds, "mebibytes": cost.mebibytes}
            for name, cost in results.costs.items()
        ],
    }
    for name, rows in tables.items():
        text = [
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
        ]
        if rows:
            write_table(folder / f"{name}.csv", list(rows[0]), text)


def outcome_rows(outcomes: Mapping[Trial, Outcome]) -> list[Row]:
    """Tabulate runs: accuracy in per cent and cross-entropy on their part, and the training loss of the last epoch."""
    return [
        {
            "data": trial.data,
            "network": trial.stage,
            "pooling": trial.head.name,
            "learning_rate": trial.rate,
            "seed": trial.seed,
            "judged_on": trial.part,
            "accuracy": outcome.accuracy,
            "loss": outcome.loss,
            "training_loss": outcome.losses[-1],
            "seconds": outcome.seconds,
            **({"right": outcome.right} if trial.part == "test" else {}),
        }
        for trial, outcome in outcomes.items()
    ]


def verdict_rows(results: Results) -> list[Row]:
    """Tabulate the verdicts: means and deviations over seeds, gain, margin, and what it comes to."""
    rows: list[Row] = []
    for data, stage, head, against in results.compared():
        found = results.verdict(stage, data, head, against)
        rows.append(
            {
                "data": data,
                "network": stage,
                "pooling": head.name,
                "against": against.name,
                "seeds": found.seeds,
                "against_mean": found.baseline_mean,
                "against_spread": found.baseline_spread,
                "mean": found.mean,
                "spread": found.spread,
                "gain": found.gain,
                "margin_of_images": results.margin_of_images(stage, data, head, against),
                "margin": found.margin,
                "verdict": found.outcome,
            }
        )
    return rows


def without_reduction(head: Head) -> Head | None:
    """Return the same pooling without its reduction."""
    return None if head.dim is None else Head(head.pool)


def same_reduction(head: Head) -> Head | None:
    """Return average pooling behind the same reduction."""
    return None if head.dim is None else Head(BASELINE, head.dim)


def others(heads: Sequence[Head]) -> list[Head]:
    """Return the poolings that are compared with average pooling."""
    return [head for head in heads if head != AVERAGE]
