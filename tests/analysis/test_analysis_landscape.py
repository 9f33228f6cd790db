"""loss_landscape on losses whose every number is known, and what it leaves as it was."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from gcp_kernels import fused_gcp
from gcp_kernels.analysis import PUBLISHED_STEPS, evenly_spaced, loss_landscape, split
from gcp_kernels.nn import GCP, DropCov
from tests.support.tolerances import ANALYSIS_ROUNDINGS, FLOAT64_AGREEMENT, unit_roundoff

STEPS = (0.5, 1.0, 4.0, -2.0)


def walk(rest, y, loss_fn=lambda out, _: out, steps=STEPS, target=None, **options):
    return loss_landscape(rest, y, target, loss_fn, steps, **options)


def close(actual, expected, dtype=torch.float64):
    """Relative to the largest: a distance that should be zero is as exact as the gradients that it compares."""
    tolerance = FLOAT64_AGREEMENT if dtype == torch.float64 else ANALYSIS_ROUNDINGS * unit_roundoff(dtype)
    scale = max(abs(value) for value in expected)
    return all(abs(a - e) <= tolerance * scale for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_quadratic_has_constant_beta(device, dtype):
    k = 0.5
    y = torch.tensor([[3.0, -4.0], [12.0, 0.0]], dtype=dtype, device=device)
    result = walk(lambda y: k / 2 * y.square().sum(), y)
    assert result.steps == STEPS
    assert result.loss == k / 2 * 169
    assert result.gradient_norm == k * 13
    # y + d g = (1 + d k) y, the loss its square, and the gradient changes by k d g.
    assert close(result.losses, [k / 2 * 169 * (1 + d * k) ** 2 for d in STEPS], dtype)
    assert close(result.distances, [k * abs(d) * k * 13 for d in STEPS], dtype)
    assert close([result.beta], [k], dtype)


def test_beta_of_a_general_quadratic_is_that_of_its_own_gradient():
    a = torch.randn(5, 5, dtype=torch.float64)
    y = torch.randn(5, dtype=torch.float64)
    result = walk(lambda y: (a @ y).square().sum() / 2, y)
    hessian = a.T @ a
    gradient = hessian @ y
    curvature = ((hessian @ gradient).norm() / gradient.norm()).item()
    assert close([result.beta], [curvature])
    losses = [((a @ (y + d * gradient)).square().sum() / 2).item() for d in STEPS]
    assert close(result.losses, losses)
    assert close(result.distances, [abs(d) * (hessian @ gradient).norm().item() for d in STEPS])


def test_a_linear_loss_has_distance_zero():
    weight = torch.tensor([1.0, -2.0, 2.0])
    result = walk(lambda y: weight @ y, torch.tensor([1.0, 1.0, 1.0]))
    assert result.losses == tuple(1 + 9 * d for d in STEPS)
    assert result.distances == (0.0,) * 4
    assert result.beta == 0


def test_beta_is_the_largest_over_the_steps():
    # L = y^3 from y = 1: g = 3, g_d = 3 (1 + 3 d)^2, so that |g - g_d| / |d g| = |6 + 9 d|.
    result = walk(lambda y: (y**3).sum(), torch.ones(1, dtype=torch.float64), steps=(1.0, 2.0, 0.5))
    assert close([result.beta], [24])
    assert close(result.distances, [45, 144, 15.75])
    assert close(result.losses, [64, 343, 15.625])


def test_beta_of_steps_down_the_gradient():
    assert walk(lambda y: y.square().sum() / 2, torch.ones(4), steps=(-1.0, -2.0)).beta == 1


def test_beta_is_over_the_step_that_rounding_leaves():
    # 100 + 0.35 is 100.5 in bfloat16: the gradient, y itself, changes by just as much; 100 + 0.1 is 100.
    y = torch.full((4,), 100.0, dtype=torch.bfloat16)
    assert walk(lambda y: y.square().sum() / 2, y, steps=(0.0035,)).beta == 1
    assert walk(lambda y: y.square().sum() / 2, y, steps=(0.001,)).beta == 0


@pytest.mark.gpu
def test_the_loss_may_be_on_another_device():
    result = walk(lambda y: y.cpu().square().sum() / 2, torch.ones(4, device="cuda"), steps=(1.0,))
    assert (result.loss, result.losses, result.beta) == (2, (8,), 1)


def test_a_zero_gradient_stays_in_place():
    result = walk(lambda y: y.square().sum() + 2, torch.zeros(3))
    assert (result.gradient_norm, result.beta) == (0, 0)
    assert result.losses == (2.0,) * 4
    assert result.distances == (0.0,) * 4


def test_values_that_are_no_numbers_are_reported_as_such():
    result = walk(lambda y: (y - 1).sqrt().sum(), torch.tensor([2.0]), steps=(1.0, -4.0))
    assert math.isnan(result.losses[1])
    assert math.isnan(result.beta)
    assert result.losses[0] == torch.tensor(1.5).sqrt().item()


def test_through_covariance_pooling_as_written_out(device):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), GCP(8, dim=6), nn.Linear(21, 4)).double().to(device)
    stem, rest = split(model, "0")
    images, target = torch.randn(5, 3, 8, 8, dtype=torch.float64, device=device), torch.arange(5, device=device) % 4
    y = stem(images).detach()
    result = loss_landscape(rest, y, target, nn.functional.cross_entropy, (0.5, 30.0))

    def loss_and_gradient(point):
        point = point.detach().requires_grad_()
        reduced = model[2].conv_dr_block(model[1](point))
        loss = nn.functional.cross_entropy(model[3](fused_gcp(reduced, backend="reference")), target)
        return loss.item(), torch.autograd.grad(loss, point)[0]

    loss, gradient = loss_and_gradient(y)
    there = [loss_and_gradient(y + d * gradient) for d in (0.5, 30.0)]
    distances = [(gradient - other).norm().item() for _, other in there]
    assert close([result.loss, *result.losses], [loss, *(value for value, _ in there)])
    assert close(result.distances, distances)
    assert close([result.gradient_norm], [gradient.norm().item()])
    assert close([result.beta], [max(distances[0] / 0.5, distances[1] / 30) / gradient.norm().item()])
    assert max(distances) > 1e-3 * gradient.norm()  # else nothing was compared


def test_all_steps_share_one_mask():
    """The loss is linear given the masks, so that only another mask could change the gradient."""
    x = torch.relu(torch.randn(4, 8, 6, 6))
    dropout = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5))
    assert walk(lambda y: dropout(y).sum(), x, model=dropout).distances == (0.0,) * 4
    # The rows of this covariance sum to numbers of both signs, at a cosine of 2/16 with the uniform gate: p = 0.69.
    sign = torch.tensor([1.0] * 9 + [-1.0] * 7).view(1, 16, 1, 1)
    x, gate = sign * torch.randn(4, 1, 6, 6), DropCov(16, dim=None)
    nn.init.zeros_(gate.eca_layer.conv.weight)
    assert 0 < (gate(x) == 0).float().mean() < 1
    assert not torch.equal(gate(x), gate(x))
    twice = walk(lambda y: gate(y).sum(), x, steps=(1e-3, 1e-3), model=gate)
    assert twice.losses[0] == twice.losses[1]
    assert twice.distances[0] == twice.distances[1] > 0


def test_what_drifts_in_training_does_not_drift_along_the_walk():
    linear = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6).double())
    y = torch.randn(3, 6, dtype=torch.float64)
    result = loss_landscape(linear, y, None, lambda out, _: out.sum(), (1.0, 1.0, 2.0))
    assert result.losses[0] == result.losses[1]
    assert close([beta := result.distances[2], 1], [0, 1]), beta


def test_an_operation_in_place_at_the_cut():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    y = torch.randn(3, 4)
    before = y.clone()
    result = loss_landscape(split(model, "0")[1], y, None, lambda out, _: out.sum(), (1.0,))
    assert torch.equal(y, before)
    weight = model[2].weight.detach()
    assert close([result.loss], [(y.relu() @ weight.T + model[2].bias).sum().item()], torch.float32)


def test_works_where_gradients_are_off():
    with torch.no_grad():
        assert walk(lambda y: y.square().sum() / 2, torch.ones(4)).beta == 1
        assert not torch.is_grad_enabled()


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch.inference_mode\(\) does not allow"):
        walk(lambda y: y.sum(), torch.ones(4))


def test_published_steps():
    for name, first, last in (("resnet", 0.1, 75.0), ("mobilenet_v2", 0.045, 1.5)):
        steps = PUBLISHED_STEPS[name]
        assert (len(steps), steps[0], steps[-1]) == (50, first, last)
        assert close([b - a for a, b in pairwise(steps)], [(last - first) / 49] * 49)
    assert evenly_spaced(1, 2, 3) == (1, 1.5, 2)
    with pytest.raises(ValueError, match="count must be at least 2, got 1"):
        evenly_spaced(1, 2, 1)


def test_steps_may_be_a_tensor():
    assert walk(lambda y: y.sum(), torch.ones(1), steps=torch.tensor([0.5, 2.0])).steps == (0.5, 2.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": [1.0]}, TypeError, "y must be a torch.Tensor, got list"),
        ({"y": torch.ones(2, dtype=torch.int64)}, TypeError, "y must be float16.*, got torch.int64"),
        ({"rest": 3}, TypeError, "rest must be callable, got int"),
        ({"loss_fn": None}, TypeError, "loss_fn must be callable, got NoneType"),
        ({"steps": 5}, TypeError, "steps must be several numbers, got 5 of type int"),
        ({"steps": torch.tensor(5.0)}, TypeError, "several numbers, got a tensor that is no dense vector"),
        ({"steps": ()}, ValueError, "at least one step size, got none"),
        ({"steps": (1.0, 0.0)}, ValueError, "finite and not zero, got 0.0"),
        ({"steps": (math.inf,)}, ValueError, "finite and not zero, got inf"),
        ({"steps": ("1",)}, TypeError, "every step must be a number, got '1'"),
        ({"rest": lambda y: y}, ValueError, r"the loss must have one element, got shape \(2,\)"),
        ({"rest": lambda y: 1.0}, TypeError, "the loss must be a torch.Tensor, got float"),
        ({"rest": lambda y: torch.ones(())}, ValueError, "does not depend on y"),
        ({"rest": lambda y: nn.Parameter(torch.ones(()))}, ValueError, "does not depend on y"),
        ({"model": "resnet"}, TypeError, r"model must be a torch.nn.Module, got str"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        walk(**{"rest": lambda y: y.sum(), "y": torch.ones(2), **change})


def test_a_channel_of_zeros_before_a_batchnorm_holds_nearly_all_of_the_gradient():
    """Its variance of zero makes steps into it hundreds of times as steep; the walk starts there and leaves at once."""
    y = torch.randn(8, 4, 6, 6, dtype=torch.float64)
    rest = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()
    target = torch.arange(8) % 3
    alive = walk(rest, y, nn.functional.cross_entropy, (0.1, 1.0), target)
    y[:, 2] = 0
    dead = walk(rest, y, nn.functional.cross_entropy, (0.1, 1.0), target)
    assert dead.gradient_norm > 50 * alive.gradient_norm
    assert dead.beta > 50 * alive.beta
