"""What the report says of more epochs and of training losses, of made-up runs."""

from dataclasses import replace

import pytest

from experiments.reproduction.longer import less_accurate_with_lower_loss, longer_table, sections, training_loss_table
from experiments.reproduction.settings import Settings
from experiments.training import Epoch
from tests.support.reproduction_runs import longer_run, made_run

pytest.importorskip("scipy", reason="scipy is not installed (extra: test)")

SETTINGS = Settings(seeds=3, epochs=2)
# Of average pooling after four epochs: an accuracy of 95.5, a training loss of 0.1.
LONGER = [longer_run(seed, 95.5) for seed in range(3)]
RUNS = [
    *(made_run("avg", seed, (90.0, 95.0)) for seed in range(3)),
    *(made_run("gcp", seed, (96.0, 97.0)) for seed in range(3)),
    *(made_run("dropcov", seed, (80.0, 94.0)) for seed in range(3)),
    *LONGER,
]


def ending_with(loss, runs):
    return [replace(run, epochs=[*run.epochs[:-1], replace(run.epochs[-1], loss=loss)]) for run in runs]


def test_average_pooling_for_longer_is_held_against_the_others():
    """95.5 after twice the epochs: above the 95 of one time, below the 97 of GCP."""
    head, _, gcp, dropcov = longer_table(SETTINGS, RUNS).split("\n")
    assert "| average pooling, 2 epochs | average pooling, 4 epochs | this pooling, 2 epochs |" in head
    assert gcp == "| CNN-64 | GCP | 95.0 ± 0.0 | 95.5 ± 0.0 | 97.0 ± 0.0 | 1.50 ± 0.00 | supported |"
    assert dropcov.endswith("| -1.50 ± 0.00 | not supported |")


def test_the_training_loss_is_that_of_the_last_epoch():
    """Of made-up runs the loss of an epoch is 1 / its number; one seed of GCP has four epochs."""
    runs = [run for run in RUNS if (run.pool, run.seed) != ("gcp", 2)]
    head, _, row = training_loss_table(SETTINGS, [*runs, made_run("gcp", 2, (1.0, 2.0, 3.0, 4.0))]).split("\n")
    assert head == "| network | average pooling | average pooling, 4 epochs | GCP | DropCov |"
    assert row == "| CNN-64 | 0.500 ± 0.000 | 0.100 ± 0.000 | 0.42 ± 0.14 | 0.500 ± 0.000 |"


def test_what_has_a_lower_loss_and_is_less_accurate_is_named():
    """Average pooling for longer has a lower loss than both; GCP is more accurate, DropCov is not."""
    of_gcp, of_dropcov = less_accurate_with_lower_loss(SETTINGS, RUNS).split("After 4 epochs ")[1:]
    named = "average pooling has a lower training loss than {}, and is yet less accurate beyond the margin, in {}."
    assert of_gcp == named.format("GCP", "CNN-64") + " "
    assert of_dropcov == named.format("DropCov", "no network")
    gcp_has_a_lower_loss = [*RUNS[:-3], *ending_with(0.6, LONGER)]
    assert "CNN-64" not in less_accurate_with_lower_loss(SETTINGS, gcp_has_a_lower_loss)
    others = [replace(run, job=replace(run.job, network="resnet18")) for run in RUNS]
    both = replace(SETTINGS, networks=("resnet18", "cnn"))
    assert named.format("GCP", "ResNet-18/4 and CNN-64") in less_accurate_with_lower_loss(both, [*RUNS, *others])


@pytest.mark.parametrize(("schedule", "still"), [("adju", True), ("norm", False)])
def test_a_rate_of_zero_in_the_last_epoch_is_said(schedule, still):
    text = "\n\n".join(sections(replace(SETTINGS, epochs=30, schedule=schedule), 10, RUNS))
    assert ("The rate is zero in that epoch" in text) == still
    assert "Guessing has 2.30." in text
    assert text.endswith(less_accurate_with_lower_loss(replace(SETTINGS, epochs=30), RUNS))


def test_one_epoch_is_written_in_the_singular():
    text = "\n".join(
        sections(replace(SETTINGS, epochs=1), 10, [replace(run, epochs=[Epoch(1.0, 90.0, 0.1)]) for run in RUNS])
    )
    assert "1 epochs" not in text
