"""filter_normalized_surface: scales of the filters, parabolas that are known, and parameters put back bit for bit."""

import copy
import math

import pytest
import torch
from torch import nn

from gcp_kernels.analysis import filter_normalized_directions, filter_normalized_surface
from gcp_kernels.nn import GCP, DropCov
from tests.support.tolerances import ANALYSIS_ROUNDINGS, FLOAT64_AGREEMENT, unit_roundoff

ALPHAS = (-1.0, -0.25, 0.0, 0.5, 1.0)
BETAS = (-0.5, 0.0, 2.0)


def network():
    pool = DropCov(6, dim=4)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.2), pool, nn.Linear(10, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_filters_have_the_norm_of_the_weights(device, dtype):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), GCP(6, dim=4), nn.Linear(10, 3)).to(device, dtype)
    with torch.no_grad():
        model[0].weight[2] = 0
    directions = filter_normalized_directions(model, 2, seed=4)
    accurate = torch.float64 if dtype == torch.float64 else torch.float32
    for direction in directions:
        assert list(direction) == [name for name, _ in model.named_parameters()]
        for name, parameter in model.named_parameters():
            drawn = direction[name]
            assert (drawn.dtype, drawn.device, drawn.shape) == (accurate, parameter.device, parameter.shape)
            if parameter.dim() == 1:
                assert not drawn.any()
                continue
            norms, expected = (t.detach().to(accurate).flatten(1).norm(dim=1) for t in (drawn, parameter))
            assert torch.allclose(norms, expected, rtol=ANALYSIS_ROUNDINGS * unit_roundoff(accurate), atol=0)
    assert not torch.equal(directions[0]["3.weight"], directions[1]["3.weight"])
    again = filter_normalized_directions(model, 2, seed=4)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(directions, again, strict=True) for name in a)
    other = filter_normalized_directions(model, 1, seed=5)
    assert not torch.equal(other[0]["3.weight"], directions[0]["3.weight"])


def test_directions_are_those_of_normal_numbers():
    """Within a filter nothing but the scale is changed."""
    layer = nn.Linear(50, 3).double()
    drawn = torch.randn(3, 50, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (direction,) = filter_normalized_directions(layer, 1, seed=9)
    for row, raw in zip(direction["weight"], drawn, strict=True):
        ratio = row / raw
        assert torch.allclose(ratio, ratio[0].expand(50), rtol=FLOAT64_AGREEMENT)


@pytest.fixture
def quadratic():
    """Make a layer, a loss quadratic in its weights, and its value, slope and curvature along directions."""
    layer = nn.Linear(4, 3).double()
    weights = torch.rand(3, 4, dtype=torch.float64) + 0.5
    centre = torch.randn(3, 4, dtype=torch.float64)

    def loss():
        return (weights * (layer.weight - centre).square()).sum() / 2 + layer.bias.sum()

    def inner(a, b):
        return (weights * a * b).sum().item()

    offset = (layer.weight - centre).detach()
    return layer, loss, lambda d: (loss().item(), inner(offset, d), inner(d, d)), inner


def test_a_quadratic_gives_the_parabola_of_its_direction(quadratic):
    layer, loss, along, _ = quadratic
    (direction,) = filter_normalized_directions(layer, 1, seed=3)
    value, slope, curvature = along(direction["weight"])
    line = filter_normalized_surface(layer, loss, ALPHAS, seed=3)
    assert (line.steps, line.second_steps, line.losses.shape) == (ALPHAS, None, (5,))
    expected = [value + a * slope + a * a * curvature / 2 for a in ALPHAS]
    assert torch.allclose(line.losses, torch.tensor(expected, dtype=torch.float64), rtol=FLOAT64_AGREEMENT)
    assert line.losses[2] == loss().item()


def test_a_quadratic_gives_the_paraboloid_of_two_directions(quadratic):
    layer, loss, along, inner = quadratic
    d, e = (direction["weight"] for direction in filter_normalized_directions(layer, 2))
    value, slope, curvature = along(d)
    _, second_slope, second_curvature = along(e)
    plane = filter_normalized_surface(layer, loss, torch.tensor(ALPHAS), BETAS)
    assert (plane.steps, plane.second_steps, plane.losses.shape) == (ALPHAS, BETAS, (5, 3))
    for i, a in enumerate(ALPHAS):
        for j, b in enumerate(BETAS):
            squares = a * a * curvature + b * b * second_curvature + 2 * a * b * inner(d, e)
            expected = value + a * slope + b * second_slope + squares / 2
            assert math.isclose(plane.losses[i, j], expected, rel_tol=FLOAT64_AGREEMENT)


def test_weights_of_another_scale_have_the_same_surface(device):
    """What the normalisation is for: BatchNorm undoes the scale of the filters before it."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, eps=1e-30), GCP(6, dim=None), nn.Linear(21, 3)
    )
    model = model.double().to(device)
    images, target = torch.randn(5, 3, 8, 8, dtype=torch.float64, device=device), torch.arange(5, device=device) % 3

    def surface():
        return filter_normalized_surface(model, lambda: nn.functional.cross_entropy(model(images), target), ALPHAS)

    first = surface().losses
    with torch.no_grad():
        model[0].weight *= torch.tensor([0.1, 1, 3, 10, 0.5, 7], device=device).view(6, 1, 1, 1)
    assert torch.allclose(surface().losses, first, rtol=FLOAT64_AGREEMENT)
    assert first.max() > first.min()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails", [False, True], ids=["whole", "exception"])
def test_everything_is_as_it_was(device, dtype, fails):
    model = network().to(device, dtype)
    model(torch.randn(4, 3, 8, 8, device=device, dtype=dtype)).float().square().sum().backward()
    images = torch.randn(4, 3, 8, 8, device=device, dtype=dtype)
    before = copy.deepcopy(model.state_dict())
    held = [(p, p.data_ptr(), p.grad, p._version) for p in model.parameters()]
    state, calls = torch.get_rng_state(), []

    def loss():
        calls.append(model[0].weight.detach().clone())
        if fails and len(calls) == 2:
            raise KeyError("in the middle")
        return model(images).float().square().mean()

    if fails:
        with pytest.raises(KeyError, match="in the middle"):
            filter_normalized_surface(model, loss, ALPHAS)
    else:
        filter_normalized_surface(model, loss, ALPHAS)
    assert not torch.equal(calls[0], calls[1])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for p, pointer, gradient, version in held:
        assert p.data_ptr() == pointer
        assert p.grad is gradient
        assert p._version == version
    assert torch.equal(torch.get_rng_state(), state)


def test_all_points_share_one_mask():
    model = network().train()
    images = torch.randn(4, 3, 8, 8)
    line = filter_normalized_surface(model, lambda: model(images).square().sum(), (0.0, 0.0, 1.0, 0.0))
    assert line.losses[0] == line.losses[1] == line.losses[3]
    assert line.losses[0] != line.losses[2]


def test_inside_autocast_as_outside(device):
    """Its cache of weights in bfloat16 sees no change by way of .data."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(device)
    x, autocast = torch.randn(5, 4, device=device), torch.autocast(device, torch.bfloat16)

    def loss():
        return model(x).float().square().sum()

    def loss_in_autocast():
        with autocast:
            return loss()

    expected, at_rest = filter_normalized_surface(model, loss_in_autocast, ALPHAS), loss_in_autocast()
    with torch.autocast(device, torch.bfloat16):
        inside = filter_normalized_surface(model, loss, ALPHAS)
        after = loss()
    assert torch.equal(inside.losses, expected.losses)
    assert inside.losses.min() < inside.losses.max()
    assert torch.equal(after, at_rest)
    after.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_shared_parameters_are_moved_once():
    layer = nn.Linear(3, 3, bias=False)
    twice = nn.Sequential(layer, layer)
    assert list(filter_normalized_directions(twice, 1)[0]) == ["0.weight"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": len}, TypeError, "model must be a torch.nn.Module, got builtin"),
        ({"model": nn.BatchNorm2d(3)}, ValueError, "no parameter of two or more dimensions"),
        ({"loss": None}, TypeError, "loss must be callable, got NoneType"),
        ({"second_steps": 5}, TypeError, "second_steps must be several numbers, got 5 of type int"),
        ({"steps": ()}, ValueError, "steps must have at least one"),
        ({"second_steps": (math.nan,)}, ValueError, "every one of second_steps must be finite, got nan"),
        ({"steps": (None,)}, TypeError, "every one of steps must be a number, got None"),
        ({"seed": "0"}, TypeError, "seed must be an int"),
        ({"loss": lambda: torch.ones(2)}, ValueError, "the loss must have one element"),
        ({"loss": lambda: 1}, TypeError, "the loss must be a torch.Tensor, got int"),
    ],
)
def test_bad_input(change, error, message):
    layer = nn.Linear(2, 1)
    arguments = {"model": layer, "loss": lambda: layer.weight.sum(), "steps": (0, 1), **change}
    with pytest.raises(error, match=message):
        filter_normalized_surface(**arguments)
