"""Flatness around weights with a known answer."""

from math import log

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from experiments.datasets import Part
from experiments.reproduction.flatness import SURFACE_STEPS, Flatness, measure_flatness


@pytest.fixture
def data():
    return Part(torch.randn(40, 1, 4, 4), torch.randint(3, (40,)))


def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_the_eigenvalue_is_that_of_the_dense_hessian(data):
    network = classifier()
    names = [name for name, _ in network.named_parameters()]
    sizes = [parameter.numel() for parameter in network.parameters()]

    def loss(flat):
        parts = flat.split(sizes)
        weights = {name: part.view_as(network.get_parameter(name)) for name, part in zip(names, parts, strict=True)}
        return nn.functional.cross_entropy(functional_call(network, weights, (data.images,)), data.labels)

    flat = nn.utils.parameters_to_vector(network.parameters()).detach()
    top = torch.linalg.eigvalsh(hessian(loss)(flat))[-1].item()
    measured = measure_flatness(network, data, iterations=500, directions=1)
    assert measured.loss == pytest.approx(loss(flat).item(), rel=1e-6)
    # A relative residual of 1e-2 is where the power iteration stops; the quotient errs by about its square.
    assert measured.residual <= 1e-2 * measured.eigenvalue
    assert measured.eigenvalue == pytest.approx(top, rel=1e-2)


def test_weights_of_norm_zero_have_no_surroundings(data):
    network = classifier()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    measured = measure_flatness(network, data, iterations=2, directions=3)
    assert measured.loss == pytest.approx(log(3))
    assert measured.surface == ((measured.surface[0][0],) * len(SURFACE_STEPS),) * 3
    assert measured.rise == pytest.approx(0, abs=1e-6)


def test_the_rise_is_the_mean_over_steps_and_directions():
    assert Flatness(1.0, 0.0, 0.0, ((2.0, 4.0), (1.0, 1.0))).rise == 1.0


def test_it_is_measured_as_the_network_is_tested_and_changes_nothing(data):
    """In evaluation mode, with dropout off and BatchNorm's running statistics, which stay as they are."""
    network = nn.Sequential(classifier(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, second = (measure_flatness(network, data, iterations=3, directions=2) for _ in range(2))
    assert first == second
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
