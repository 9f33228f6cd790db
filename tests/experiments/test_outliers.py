"""Which seed is named as far from the others, and how; and that the reports do so."""

from dataclasses import replace
from math import inf

import pytest

from experiments.reproduction import outliers
from experiments.reproduction.report import report
from experiments.reproduction.run import outcome
from experiments.reproduction.settings import Settings
from tests.support.reproduction_runs import DATA, choosing_run, longer_run, made_run

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")
pytestmark = pytest.mark.same_without_gpu


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ([3.0, 1.0, 2.0, 90.0], (90.0, [3.0, 1.0, 2.0])),
        ([-80.0, 3.0, 1.0, 2.0], (-80.0, [3.0, 1.0, 2.0])),
        ([1.0, 2.0, 3.0, 4.0], None),
        ([5.0] * 4, None),
        ([1.0, 1.0, 90.0], None),
        ([1.0, 2.0, 3.0, inf], None),
        ([1.0], None),
    ],
    ids=["above", "below", "none", "no deviation", "too few others", "never reached", "one"],
)
def test_the_figure_that_makes_most_of_the_deviation(figures, expected):
    assert outliers.far_from_the_others(figures) == expected


def test_it_is_named_with_its_figures():
    assert outliers.sentence([("a", [1.0, 2.0, 3.0, 4.0])]) == ""
    assert outliers.sentence([("a", [1.0, 2.0, 3.0, 4.0]), ("b", [1.0, 2.0, 3.0, 90.1])], " %") == (
        "One seed is far from the others: b (90.1 %, the others 1 to 3 %)."
    )


def test_a_report_names_it_behind_the_table_of_its_claim():
    settings = Settings(seeds=4, epochs=2, rates=(0.1,), pools=("avg", "gcp"))
    runs = [
        *(choosing_run(pool, 0.1, 92.0) for pool in settings.pools),
        *(made_run(pool, seed) for pool in settings.pools for seed in range(4)),
        *(longer_run(seed, 95.5) for seed in range(4)),
    ]
    place = next(i for i, run in enumerate(runs) if (run.pool, run.seed, run.job.kind) == ("gcp", 2, "measure"))
    last = runs[place].epochs[-1]
    for accuracy, expected in ((20.0, True), (last.accuracy, False)):
        runs[place] = replace(runs[place], epochs=[*runs[place].epochs[:-1], replace(last, accuracy=accuracy)])
        found = outcome(settings, runs)
        text = report(settings, DATA, runs, found.figures, found.verdicts, [], 0.0)
        section = text.split("\n## 4. ")[1].split("\n## 5. ")[0]
        assert ("final test accuracy, %, CNN-64, GCP (20, the others" in section) == expected


def test_of_whole_epochs_one_more_is_not_far():
    """One seed comes to its accuracy an epoch after the others."""
    settings = Settings(seeds=4, epochs=2, rates=(0.1,), pools=("avg", "gcp"))
    runs = [
        *(choosing_run(pool, 0.1, 92.0) for pool in settings.pools),
        *(made_run("avg", seed) for seed in range(4)),
        *(made_run("gcp", seed, (90.0, 97.0) if seed == 2 else (96.0, 97.0)) for seed in range(4)),
        *(longer_run(seed, 95.5) for seed in range(4)),
    ]
    found = outcome(settings, runs)
    assert sorted(found.figures["cnn"]["epochs_to_target"]["gcp"]) == [1, 1, 1, 2]
    text = report(settings, DATA, runs, found.figures, found.verdicts, [], 0.0)
    assert "far from the others" not in text.split("\n## 3. ")[1].split("\n## 4. ")[0]
