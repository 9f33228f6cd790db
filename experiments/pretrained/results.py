"""What an experiment gave, as data, and the CSV files that it is written to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_table

from ..reproduction.claims import Measure, Verdict, verdict
from .costs import Cost
from .experiment import AVERAGE, STAGES, Head, Outcome, Settings, Trial
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
        rate = self.rates[stage, data, head]
        seeds = range(self.settings.seeds(stage))
        return [self.final[Trial(stage, data, head, rate, seed, "test")].accuracy for seed in seeds]

    def verdict(self, stage: str, data: str, head: Head, against: Head = AVERAGE) -> Verdict:
        """Apply the rule of verdicts to the test accuracies of a pooling and another one."""
        baseline = self.accuracies(stage, data, against)
        return verdict(ACCURACY, head.name, baseline, self.accuracies(stage, data, head))


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
        }
        for trial, outcome in outcomes.items()
    ]


def verdict_rows(results: Results) -> list[Row]:
    """Tabulate the verdicts: every pooling against average pooling."""
    return [
        {"data": data, "network": stage, "pooling": head.name, **numbers(results.verdict(stage, data, head))}
        for data, stage in results.comparisons()
        for head in others(results.settings.heads(stage))
    ]


def numbers(found: Verdict) -> dict[str, object]:
    """Return the columns of a verdict: means and deviations over seeds, gain, margin, and what it comes to."""
    return {
        "seeds": found.seeds,
        "average_pooling_mean": found.baseline_mean,
        "average_pooling_spread": found.baseline_spread,
        "mean": found.mean,
        "spread": found.spread,
        "gain": found.gain,
        "margin": found.margin,
        "verdict": found.outcome,
    }


def others(heads: Sequence[Head]) -> list[Head]:
    """Return the poolings that are compared with average pooling."""
    return [head for head in heads if head != AVERAGE]
