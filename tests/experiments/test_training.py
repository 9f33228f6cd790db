"""Schedules against the published formulas, networks that differ in the pooling only, and the loop."""

import warnings

import pytest
import torch
from torch import nn

from experiments import training
from experiments.datasets import Part
from experiments.training import POOLS, PUBLISHED_EPOCHS, MemoryBatches, build_network, learning_rate_factor
from experiments.training.configuration import TrainingConfig
from experiments.training.mixed_precision import MixedPrecision


def test_published_schedules():
    norm = [learning_rate_factor("norm", epoch) for epoch in range(1, 101)]
    assert norm == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 30 + [0.001] * 10)
    fast = [learning_rate_factor("fast", epoch) for epoch in range(1, 31)]
    assert fast == pytest.approx([(1 - (epoch - 1) / 52) ** 11 for epoch in range(1, 31)])
    adju = [learning_rate_factor("adju", epoch) for epoch in range(1, 51)]
    assert adju == pytest.approx([(1 - (epoch - 1) / 49) ** 2 for epoch in range(1, 51)])
    assert adju[-1] == 0


@pytest.mark.parametrize("schedule", PUBLISHED_EPOCHS)
@pytest.mark.parametrize("epochs", [1, 2, 15, 400])
def test_a_schedule_stretches_over_any_number_of_epochs(schedule, epochs):
    factors = [learning_rate_factor(schedule, epoch, epochs) for epoch in range(1, epochs + 1)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    if epochs > 1:
        assert factors[-1] == pytest.approx(learning_rate_factor(schedule, PUBLISHED_EPOCHS[schedule]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 1), "'norm', 'fast', 'adju', got 'cosine'"),
        (("norm", 0), "epoch must be at least 1, got 0"),
        (("norm", 101), "epoch must be at most 100"),
        (("norm", 1, 0), "epochs must be at least 1, got 0"),
    ],
)
def test_a_wrong_schedule_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        learning_rate_factor(*arguments)


def test_the_rate_changes_between_epochs_only():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = training.scheduler("adju", optimizer, epochs=3, steps_in_epoch=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.5 * learning_rate_factor("adju", epoch, 3) for epoch in (1, 2, 3) for _ in range(4)]
    assert rates == pytest.approx(expected)


def test_every_network_starts_from_the_same_convolutions():
    average, *others = (build_network(pool, seed=5) for pool in POOLS)
    images = torch.rand(2, 1, 8, 8)
    assert average(images).shape == (2, 10)
    for other in others:
        for ours, theirs in zip(average[0].parameters(), other[0].parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert other(images).shape == (2, 10)
    assert not torch.equal(average[0][0].weight, build_network("avg", seed=6)[0][0].weight)
    with pytest.raises(ValueError, match="'max'"):
        build_network("max", seed=0)


def test_a_step_whose_scaled_gradients_overflow_is_left_out():
    """As in float16 on a GPU; here the scale itself is near the end of float32's range."""
    images = Part(torch.rand(8, 1, 8, 8), torch.arange(8))
    batches = MemoryBatches(images, images, batch_size=8, seed=0)
    network = build_network("gcp", seed=0)
    before = network[2].weight.detach().clone()
    network[2].weight.register_hook(lambda gradient: 1e3 * gradient)
    arithmetic = MixedPrecision(None, torch.device("cpu"))
    arithmetic.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    schedule = training.scheduler("fast", sgd, epochs=2, steps_in_epoch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unchanged = [
            torch.equal(network[2].weight, before)
            for _ in training.train_epochs(
                network,
                batches,
                optimizer=sgd,
                schedule=schedule,
                epochs=2,
                after_step=lambda images, labels: None,
                arithmetic=arithmetic,
            )
        ]
    assert unchanged == [True, False]
    assert arithmetic.scaler.get_scale() == 2.0**27


def test_the_order_is_that_of_the_seed_and_the_epoch():
    digits = Part(torch.rand(64, 1, 8, 8), torch.arange(64))

    def order(seed, epoch):
        batches = MemoryBatches(digits, digits, batch_size=10, seed=seed).training(epoch)
        return torch.cat([own for _, own in batches]).tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    assert all(sorted(one) == digits.labels.tolist() for one in orders)
    assert len({tuple(one) for one in orders}) == len(orders)
    assert order(1, 2) == orders[-1]


def test_accuracy_is_measured_in_evaluation_mode():
    labels = torch.arange(10)
    network = nn.Sequential(nn.Dropout(0.9)).train()
    assert training.accuracy(network, Part(torch.eye(10), labels)) == 100


def test_the_optimiser_is_the_published_one():
    config = TrainingConfig.from_options({"device": "cpu"}, processes=1)
    assert (config.lr, config.momentum, config.weight_decay, config.seed) == (0.1, 0.9, 1e-4, 0)
