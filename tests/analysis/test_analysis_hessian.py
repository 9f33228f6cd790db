"""hessian_top_eigenvalue against spectra that are known, and against the dense Hessian of a network."""

import copy

import pytest
import torch
from torch import nn

from gcp_kernels.analysis import hessian_top_eigenvalue
from gcp_kernels.nn import GCP, DropCov
from tests.support.tolerances import FLOAT64_AGREEMENT, POWER_ITERATION


class Quadratic(nn.Module):
    """1/2 x^T H x for an H with the given spectrum, its parameter in two pieces."""

    def __init__(self, spectrum, dtype=torch.float64, device="cpu"):
        super().__init__()
        n = len(spectrum)
        basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
        self.hessian = (basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T).to(device, dtype)
        self.head = nn.Parameter(torch.randn(2, dtype=dtype, device=device))
        self.tail = nn.Parameter(torch.randn(n - 2, dtype=dtype, device=device))

    def forward(self):
        x = torch.cat([self.head, self.tail])
        return x @ self.hessian @ x / 2


@pytest.mark.parametrize(
    ("spectrum", "top"),
    [((5.0, 2.0, 1.0, -1.0), 5.0), ((2.0, 1.0, 0.0, -6.0), -6.0), ((3.0, 3.0, 3.0, 1.0), 3.0), ((7.0,) * 3, 7.0)],
)
def test_known_spectra(device, spectrum, top):
    quadratic = Quadratic(spectrum, device=device)
    found = hessian_top_eigenvalue(quadratic, quadratic, tolerance=POWER_ITERATION)
    assert found.converged
    assert found.residual <= POWER_ITERATION * abs(found.eigenvalue)
    assert abs(found.eigenvalue - top) <= POWER_ITERATION * abs(top)


def test_float32():
    quadratic = Quadratic((5.0, 2.0, -1.0), dtype=torch.float32)
    found = hessian_top_eigenvalue(quadratic, quadratic)
    assert found.converged
    assert abs(found.eigenvalue - 5) <= 1e-3 * 5


@pytest.mark.parametrize("size", [1e20, 1e-30, 1e38])
def test_float32_curvatures_whose_squares_are_no_float32(size):
    layer = nn.Linear(2, 1, bias=False)
    curvature = torch.tensor([0.5, -1.0]) * size
    found = hessian_top_eigenvalue(layer, lambda: (curvature * layer.weight.square()).sum() / 2)
    assert found.converged
    assert abs(found.eigenvalue + size) <= 1e-3 * size


def test_a_curvature_that_overflows_has_not_converged():
    layer = nn.Linear(2, 1, bias=False)
    found = hessian_top_eigenvalue(layer, lambda: (layer.weight.square() * 3e38).sum() / 0.1)
    assert not found.converged


def test_iterations_are_counted_and_limited():
    quadratic = Quadratic((1.0, 0.99, 0.5))
    few = hessian_top_eigenvalue(quadratic, quadratic, max_iterations=3, tolerance=POWER_ITERATION)
    assert (few.iterations, few.converged) == (3, False)
    assert few.residual > POWER_ITERATION
    same = Quadratic((4.0,) * 3)
    assert hessian_top_eigenvalue(same, same).iterations == 1


def test_two_of_opposite_sign_do_not_converge():
    quadratic = Quadratic((2.0, -2.0, 1.0))
    found = hessian_top_eigenvalue(quadratic, quadratic, max_iterations=30)
    assert (found.iterations, found.converged) == (30, False)
    assert abs(found.eigenvalue) < 2


def test_the_seed_decides():
    quadratic = Quadratic((1.0, 0.9, 0.5))

    def found(seed):
        return hessian_top_eigenvalue(quadratic, quadratic, max_iterations=2, seed=seed)

    assert found(1) == found(1)
    assert found(1) != found(2)


@pytest.mark.parametrize("power", [1, 2])
def test_a_loss_without_curvature(power):
    layer = nn.Linear(3, 1)
    x = torch.zeros(2, 3) if power == 2 else torch.randn(2, 3)
    layer.bias.requires_grad_(power == 1)
    found = hessian_top_eigenvalue(layer, lambda: (layer(x) ** power).sum())
    assert (found.eigenvalue, found.residual, found.converged) == (0, 0, True)


def test_a_loss_that_is_no_number_has_not_converged():
    layer = nn.Linear(3, 1)
    found = hessian_top_eigenvalue(layer, lambda: (layer.weight * float("nan")).square().sum())
    assert not found.converged


def network(pool):
    pooling = DropCov(4, dim=3) if pool == "dropcov" else GCP(4, dim=3, normalization=pool)
    head = nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 3))
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Softplus(), pooling, head).double()


def dense_hessian(model, loss):
    """Row by row, of the trainable parameters as one vector."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    rows = []
    for element in torch.cat([gradient.flatten() for gradient in gradients]):
        row = torch.autograd.grad(element, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in row]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("pool", "training"), [("isqrt", True), ("isqrt", False), ("power", True), ("none", False), ("dropcov", True)]
)
def test_a_network_with_covariance_pooling_against_its_dense_hessian(pool, training):
    model = network(pool).train(training)
    model[1].bias.requires_grad_(False)
    images, target = torch.randn(6, 2, 6, 6, dtype=torch.float64), torch.arange(6) % 3
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())

    def loss():
        return nn.functional.cross_entropy(model(images), target)

    found = hessian_top_eigenvalue(model, loss, max_iterations=500)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())

    hessian = dense_hessian(model, loss())
    assert (hessian - hessian.T).abs().max() <= FLOAT64_AGREEMENT * hessian.abs().max()
    eigenvalues = torch.linalg.eigvalsh(hessian)
    top = eigenvalues[eigenvalues.abs().argmax()].item()
    assert found.converged
    assert found.residual <= 1e-3 * abs(found.eigenvalue)
    assert abs(found.eigenvalue - top) <= found.residual


@pytest.mark.parametrize("training", [True, False])
def test_attention_against_its_dense_hessian(training):
    attention = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True).double().train(training)
    tokens = torch.randn(2, 5, 4, dtype=torch.float64)

    def loss():
        return attention(tokens).pow(3).mean()

    found = hessian_top_eigenvalue(attention, loss, max_iterations=2000)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(attention, loss()))
    assert found.converged
    assert abs(found.eigenvalue - eigenvalues[eigenvalues.abs().argmax()].item()) <= found.residual
    assert torch.backends.cuda.flash_sdp_enabled()


def frozen(model):
    return model.requires_grad_(False)


def test_inference_mode_is_named():
    layer = nn.Linear(2, 1)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch.inference_mode\(\) does not allow"):
        hessian_top_eigenvalue(layer, lambda: layer.weight.square().sum())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a torch.nn.Module, got int"),
        ({"model": frozen(nn.Linear(2, 1))}, ValueError, "no parameter of the model requires a gradient"),
        ({"model": nn.Linear(2, 1).half()}, TypeError, "must be float32 or float64, got torch.float16 for 'weight'"),
        ({"loss": lambda: torch.ones(2, requires_grad=True)}, ValueError, r"one element, got shape \(2,\)"),
        ({"loss": lambda: torch.ones(())}, ValueError, "does not depend on a parameter"),
        ({"loss": lambda: torch.ones((), requires_grad=True) * 2}, ValueError, "does not depend on a parameter"),
        ({"loss": None}, TypeError, "loss must be callable, got NoneType"),
        ({"loss": lambda: 0.5}, TypeError, "the loss must be a torch.Tensor, got float"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1, got 0"),
        ({"tolerance": 0}, ValueError, "tolerance must be above 0"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
    ],
)
def test_bad_input(change, error, message):
    layer = nn.Linear(2, 1)
    with pytest.raises(error, match=message):
        hessian_top_eigenvalue(**{"model": layer, "loss": lambda: layer.weight.square().sum(), **change})
