"""The experiment behind a pretrained network: small runs of the real thing, on a tiny network with random weights."""

import csv
from dataclasses import replace
from math import isnan, nan

import pytest
import torch
from torch import nn

from experiments.pretrained import experiment, run
from experiments.pretrained.costs import ON_CHANNELS, measure_alone, measure_cost, on_channels
from experiments.pretrained.experiment import FROZEN, TUNED, Outcome, Settings, Trial, as_bits, as_hexadecimal
from experiments.pretrained.heads import AVERAGE, Head
from experiments.pretrained.preparation import keep, load_kept, upsampled
from experiments.running import RUNS, OtherRunsError
from gcp_kernels.nn import GCP
from tests.support.pretrained_runs import COUNTS, bright_and_dark, random_network

pytestmark = pytest.mark.same_without_gpu

TINY = Settings(
    data=("noise",), frozen=(AVERAGE, Head("gcp"), Head("gcp", 4), Head("dropcov", 4)), tuned=(AVERAGE, Head("gcp", 4)),
    frozen_rates=(0.01, 0.1), tuned_rates=(0.01,), extensions=1, frozen_size=64, tuned_size=32, frozen_images=20,
    tuned_images=10, validation_images=8, test_images=8, frozen_epochs=2, tuned_epochs=1, frozen_seeds=3, tuned_seeds=1,
    batch_size=10, cost_images=2, cost_repeats=1, jobs=1,
)  # fmt: skip
SOURCES = run.Sources(bright_and_dark, random_network)
TABLES = ("accuracy.csv", "costs.csv", "learning_rates.csv", "verdicts.csv")
WRITTEN = sorted((RUNS, *TABLES, "accuracy.png", "costs.png", "report.md"))
TUNED_TWICE = replace(TINY, frozen=(AVERAGE, Head("gcp", 4)), frozen_seeds=1, tuned_seeds=2)


def needs_the_libraries():
    for module in ("timm", "matplotlib", "scipy", "sklearn"):
        pytest.importorskip(module)


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def kept(folder, settings=TINY):
    sizes = {"train": settings.frozen_images, "validation": settings.validation_images, "test": settings.test_images}
    keep("noise", sizes, settings.frozen_size, folder, bright_and_dark, random_network)
    return load_kept(folder, "noise")


def test_an_interrupted_experiment_goes_on_and_comes_to_the_same(tmp_path, monkeypatch):
    needs_the_libraries()
    monkeypatch.setattr(run, "measure_alone", measure_cost)
    threads, said = torch.get_num_threads(), []
    results = run.run(TINY, tmp_path, said.append, SOURCES)
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN
    # Of each pooling the grid on one seed, where each of two rates is an end, and all seeds at the rate chosen; costs.
    assert len(results.grid) == 4 * 3 + 2 * 1
    assert len(results.final) == 4 * 3 + 2 * 1
    assert len(said) == 1 + 14 + 14 + 5
    assert {trial.part for trial in results.grid} == {"validation"}
    assert {trial.part for trial in results.final} == {"test"}
    assert not any("test" in line for line in said[:15])
    assert {row["pooling"] for row in read(tmp_path / "verdicts.csv")} == {"gcp", "gcp-4", "dropcov-4"}
    assert all((tmp_path / picture).stat().st_size < 100_000 for picture in ("accuracy.png", "costs.png"))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert '"noise" (noise noise; licence: none): 2 classes, 20 training, 8 validation, 8 test images of 16x16' in text
    assert "128 channels at 2x2 positions" in text
    assert "the classifier has 8256 inputs" in text

    lines = (tmp_path / RUNS).read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / RUNS).write_text("".join(lines[:17]) + lines[17][:20], encoding="utf-8")
    again = []
    monkeypatch.setattr(run, "write_plots", lambda folder, results: None)  # a second for nothing
    resumed = run.run(replace(TINY, jobs=1), tmp_path, again.append, SOURCES)
    assert again[0] == said[0]
    assert [line for line in again[1:] if line.startswith((FROZEN, TUNED))] == [
        line for line in said[17:] if line.startswith((FROZEN, TUNED))
    ]
    assert figures(resumed) == figures(results)
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN
    with pytest.raises(OtherRunsError, match="other settings: frozen_epochs is 2 there, not 3"):
        run.run(replace(TINY, frozen_epochs=3), tmp_path, again.append, SOURCES)


def figures(results):
    """Give what must be equal: all but the seconds."""
    runs = {**results.grid, **results.final}
    return {trial: (outcome.accuracy, outcome.loss, outcome.losses) for trial, outcome in runs.items()}


@pytest.mark.thorough
def test_two_processes_come_to_the_same_as_one(tmp_path, monkeypatch):
    needs_the_libraries()
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    monkeypatch.setattr(run, "measure_alone", measure_cost)
    expected = run.run(TUNED_TWICE, one, lambda line: None, SOURCES)
    found = run.run(replace(TUNED_TWICE, jobs=2), two, lambda line: None, SOURCES)
    assert figures(found) == figures(expected)


def test_what_is_kept_are_the_features_that_the_network_gives_its_pool(tmp_path):
    pytest.importorskip("timm")
    data, network = bright_and_dark("noise"), random_network().eval()
    found = kept(tmp_path)
    assert {part: len(getattr(found, part).labels) for part in COUNTS} == {"train": 20, "validation": 8, "test": 8}
    for part in COUNTS:
        images, features = getattr(found, part).images, getattr(found, part).features
        with torch.no_grad():
            expected = network.forward_features(upsampled(images, 64))
        assert features.dtype == torch.float16
        torch.testing.assert_close(features.float(), expected, rtol=1e-3, atol=1e-5)
        every = getattr(data, part)
        place = {image.numpy().tobytes(): label for image, label in zip(every.images, every.labels, strict=True)}
        assert [place[image.numpy().tobytes()] for image in images] == getattr(found, part).labels.tolist()
    white = upsampled(torch.ones(1, 1, 5, 5), 8)
    assert torch.equal(white, torch.ones(1, 3, 8, 8))


def test_a_run_trains_only_what_it_says_and_repeats_exactly(tmp_path):
    pytest.importorskip("timm")
    data = kept(tmp_path)
    made = []

    def network():
        made.append(random_network())
        return made[-1]

    head = Head("gcp", 4)
    trials = {stage: Trial(stage, "noise", head, 0.05, 0, "validation") for stage in (FROZEN, TUNED)}
    outcomes = {stage: experiment.run_trial(trial, TINY, tmp_path, network) for stage, trial in trials.items()}
    assert len(made) == 1, "the frozen network is not even loaded"
    assert isinstance(made[0].global_pool, GCP)
    assert made[0].forward_features(torch.rand(1, 3, 32, 32)).shape[2:] == (2, 2), "without its last stride"
    assert not torch.equal(made[0].conv_stem.weight, random_network().conv_stem.weight)
    for stage, trial in trials.items():
        again = experiment.run_trial(trial, TINY, tmp_path, network)
        assert replace(again, seconds=0) == replace(outcomes[stage], seconds=0)
        assert len(again.losses) == TINY.epochs(stage)
    average, _ = experiment.tuned(AVERAGE, data, TINY, random_network)
    assert average.forward_features(torch.rand(1, 3, 32, 32)).shape[2:] == (2, 2)
    assert average.classifier.in_features == 128
    reduced, _ = experiment.tuned(Head("avg", 4), data, TINY, random_network)
    assert reduced.classifier.in_features == 4
    features = reduced.eval().forward_features(torch.rand(3, 3, 32, 32))
    block = reduced.global_pool.conv_dr_block
    assert [type(layer) for layer in block] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    torch.testing.assert_close(reduced.forward_head(features), reduced.classifier(block(features).mean((2, 3))))
    outcome = outcomes[FROZEN]
    assert sum(as_bits(outcome.right, 8)) * 100 / 8 == outcome.accuracy


def test_what_is_right_is_kept_image_by_image():
    right = [False, True, True, False, False, True]
    assert as_hexadecimal(right) == "19"
    assert as_bits("19", 6) == [0, 1, 1, 0, 0, 1]
    assert as_bits(as_hexadecimal([False] * 9), 9) == [0] * 9


def test_scores_that_are_no_numbers_are_a_training_that_diverged():
    network = nn.Linear(2, 2)
    nn.init.constant_(network.bias, nan)
    accuracy, loss, right = experiment.judge(network, lambda chosen: torch.ones(len(chosen), 2), torch.zeros(3).long())
    assert isnan(accuracy)
    assert isnan(loss)
    assert right == ""


def test_training_learns_and_a_training_that_diverges_is_no_number(tmp_path):
    pytest.importorskip("timm")
    kept(tmp_path)
    settings = replace(TINY, frozen_epochs=20)
    learned = experiment.run_trial(Trial(FROZEN, "noise", AVERAGE, 0.1, 0, "test"), settings, tmp_path, random_network)
    assert learned.accuracy == 100
    assert learned.losses[-1] < 0.5 * learned.losses[0]
    wild = experiment.run_trial(
        Trial(FROZEN, "noise", Head("gcp"), 1e30, 0, "test"), settings, tmp_path, random_network
    )
    assert isnan(wild.accuracy)
    assert isnan(wild.loss)
    assert len(wild.losses) < 20


def test_the_rate_is_that_of_the_best_accuracy_then_of_the_lower_loss():
    def grid(*outcomes):
        rates = (0.01, 0.1, 1.0)
        return {
            Trial(FROZEN, "noise", AVERAGE, rate, 0, "validation"): Outcome(accuracy, loss, (loss,), 1.0)
            for rate, (accuracy, loss) in zip(rates, outcomes, strict=True)
        }

    grid_of_two = replace(TINY, extensions=2)  # frozen: 0.01 and 0.1
    assert run.grown((0.01, 0.1), 0.1, grid_of_two, FROZEN) == (0.01, 0.1, 0.3)
    assert run.grown((0.01, 0.1, 0.3), 0.3, grid_of_two, FROZEN) == (0.01, 0.1, 0.3, 0.9)
    assert run.grown((0.01, 0.1, 0.3), 0.1, grid_of_two, FROZEN) == (0.01, 0.1, 0.3)
    assert run.grown((0.01, 0.1, 0.3, 0.9), 0.9, grid_of_two, FROZEN) == (0.01, 0.1, 0.3, 0.9), "twice at most"
    assert run.grown((0.01, 0.1), 0.01, grid_of_two, FROZEN) == (0.003, 0.01, 0.1)
    assert run.grown((0.01,), 0.01, grid_of_two, TUNED) == (0.01,), "nothing is chosen from one"
    assert run.chosen_rate(grid((90.0, 0.3), (92.0, 0.9), (nan, nan)), FROZEN, "noise", AVERAGE) == 0.1
    assert run.chosen_rate(grid((92.0, 0.3), (92.0, 0.2), (92.0, 0.4)), FROZEN, "noise", AVERAGE) == 0.1
    with pytest.raises(run.NothingConvergedError, match=r"average pooling on noise, frozen: .* every learning rate"):
        run.chosen_rate(grid((nan, nan), (nan, nan), (nan, nan)), FROZEN, "noise", AVERAGE)


def test_settings_that_cannot_be_run_are_refused():
    for heads, names in (((), "none"), ((AVERAGE,), "avg"), ((Head("gcp"), Head("gcp", 4)), "gcp, gcp-4")):
        with pytest.raises(
            ValueError, match=f"frozen network needs average pooling and another to compare, got {names}$"
        ):
            Settings(frozen=heads)
    with pytest.raises(ValueError, match="tuned_images must be at most frozen_images, 5, got 6"):
        Settings(frozen_images=5, tuned_images=6)
    with pytest.raises(ValueError, match="must be a learning rate to choose for the fine-tuned network"):
        Settings(tuned_rates=())
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        Head("avg", 0)
    with pytest.raises(ValueError, match="pool must be"):
        Head("max")


def test_the_cost_on_the_channels_is_of_the_same_pooling():
    x = torch.rand(2, 12, 2, 3)
    torch.testing.assert_close(on_channels(x), GCP(12, dim=None)(x), rtol=1e-3, atol=1e-4)
    few, many = (measure_cost(ON_CHANNELS, (channels, 4, 4), 2, 3).milliseconds for channels in (16, 256))
    assert 0 < few < many


def test_the_memory_holds_the_result_and_its_gradient_in_a_batch_no_larger_than_the_one_that_warms_up():
    cost = measure_alone(Head("gcp"), (512, 4, 4), 2, 1)
    assert cost.milliseconds > 0
    # The result has 131328 numbers of four bytes, its gradient as many.
    assert isnan(cost.mebibytes) or cost.mebibytes > 0.9 * 2 * 131328 * 4 / 2**20
