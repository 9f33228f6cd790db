"""preconditioner_view on gradients that are known in closed form."""

import copy

import pytest
import torch
from torch import nn

from gcp_kernels import covariance_pool, fused_gcp
from gcp_kernels.analysis import preconditioner_view
from gcp_kernels.nn import GCP
from tests.support.tolerances import ANALYSIS_ROUNDINGS, FLOAT64_AGREEMENT, PROMISE, unit_roundoff


def features(b=3, c=5, height=4, width=6, dtype=torch.float64, device="cpu"):
    mixing = torch.randn(c, c, dtype=torch.float64)
    x = torch.einsum("dc,bchw->bdhw", mixing, torch.randn(b, c, height, width, dtype=torch.float64)) + 2
    return x.to(device, dtype)


def average(weight):
    return lambda x: (x.mean((2, 3)) @ weight.to(x)).sum()


def covariance(weight):
    return lambda x: (covariance_pool(x) * weight.to(x)).sum()


def near(actual, expected):
    expected = torch.as_tensor(expected, dtype=actual.dtype, device=actual.device).expand_as(actual)
    return torch.allclose(actual, expected, rtol=FLOAT64_AGREEMENT, atol=FLOAT64_AGREEMENT)


def test_average_pooling_is_the_same_everywhere(device):
    x, weight = features(device=device), torch.randn(5, dtype=torch.float64)
    view = preconditioner_view(x, {"avg": average(weight)})
    found = view.gradients["avg"]
    assert near(found.gradient, (weight.to(device) / 24).view(1, 5, 1))
    assert near(found.norm, weight.norm() / 24**0.5)
    assert near(found.common_share, 1)
    assert near(found.effective_rank, 1)


def test_covariance_pooling_multiplies_centred_features(device):
    x, weight = features(device=device), torch.randn(5, 5, dtype=torch.float64)
    view = preconditioner_view(x, {"avg": average(weight[0]), "gcp": covariance(weight)})
    found, centred = view.gradients["gcp"], (x - x.mean((2, 3), keepdim=True)).flatten(2)
    expected = (weight + weight.T).to(device) @ centred / 24
    assert near(found.gradient, expected)
    assert near(found.norm, expected.flatten(1).norm(dim=1))
    assert near(found.common_share, 0)
    assert near(view.cosine("avg", "gcp"), 0)
    squares = torch.linalg.svdvals(expected).square()
    assert near(found.effective_rank, squares.sum(1).square() / squares.square().sum(1))


def test_the_spectrum_of_the_trace_is_that_of_the_covariance(device):
    """L = trace: the gradient is 2 (x - mu) / M, with the energy lambda_i along the i-th eigenvector."""
    x = features(device=device)
    view = preconditioner_view(x, {"gcp": covariance(torch.eye(5, dtype=torch.float64))})
    found, eigenvalues = view.gradients["gcp"], torch.linalg.eigvalsh(covariance_pool(x)).flip(-1)
    assert near(view.eigenvalues, eigenvalues)
    assert near(found.spectrum, eigenvalues / eigenvalues.sum(1, keepdim=True))
    assert near(found.norm, 2 * (eigenvalues.sum(1) / 24).sqrt())
    assert near(found.effective_rank, eigenvalues.sum(1).square() / eigenvalues.square().sum(1))


def test_the_square_root_evens_out_the_spectrum():
    """L = trace(Sigma^1/2): the gradient is Sigma^-1/2 (x - mu) / M, whitened, so that all directions get the same."""
    x = features(b=2)
    trace = torch.eye(5, dtype=torch.float64)
    losses = {
        "plain": covariance(trace),
        "root": lambda x: (fused_gcp(x, n_iter=40, output="full") * trace).sum(),
    }
    view = preconditioner_view(x, losses)
    assert torch.allclose(
        view.gradients["root"].spectrum, torch.full((2, 5), 0.2, dtype=torch.float64), rtol=FLOAT64_AGREEMENT
    )
    assert torch.allclose(
        view.gradients["root"].effective_rank, torch.tensor(5.0, dtype=torch.float64), rtol=FLOAT64_AGREEMENT
    )
    assert (view.gradients["plain"].effective_rank < 4).all()


def test_cosines():
    x = features()
    weight = torch.randn(5, dtype=torch.float64)
    losses = {
        "one": average(weight),
        "same": average(3 * weight),
        "less": average(-weight),
        "none": average(0 * weight),
    }
    view = preconditioner_view(x, losses)
    assert near(view.cosine("one", "same"), 1)
    assert near(view.cosine("one", "less"), -1)
    assert near(view.cosine("one", "none"), 0)
    none = view.gradients["none"]
    for numbers in (none.norm, none.common_share, none.effective_rank, none.spectrum):
        assert not numbers.any()
    with pytest.raises(ValueError, match="other must be one of 'one', 'same', 'less', 'none', got 'more'"):
        view.cosine("one", "more")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradients_of_any_size(scale):
    x = features(dtype=torch.float32)
    found = preconditioner_view(x, {"avg": lambda x: x.mean() * scale}).gradients["avg"]
    assert torch.allclose(found.effective_rank, torch.ones(3), rtol=ANALYSIS_ROUNDINGS * unit_roundoff(torch.float32))
    assert torch.allclose(found.common_share, torch.ones(3), rtol=ANALYSIS_ROUNDINGS * unit_roundoff(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(device, dtype):
    x = features(dtype=dtype, device=device)
    weight = torch.randn(5, 5, dtype=torch.float64)
    losses = {"avg": average(weight[0]), "gcp": lambda x: covariance(weight)(x.float())}
    view, exact = preconditioner_view(x, losses), preconditioner_view(x.double(), losses)
    # Rounding turns an eigenvector by itself over the gap to the next eigenvalue.
    turned = (exact.eigenvalues[:, 0] / -exact.eigenvalues.diff(dim=1).amax(1)).max()
    for name in losses:
        found, expected = vars(view.gradients[name]), vars(exact.gradients[name])
        for what in found:
            assert found[what].dtype == torch.float32
            size = {"common_share": 1, "spectrum": turned}.get(what, expected[what].abs().max())
            bound = PROMISE["high"] + ANALYSIS_ROUNDINGS * unit_roundoff(dtype)
            assert (found[what].double() - expected[what]).abs().max() <= bound * size, what


def test_spatial_dimensions_and_layout():
    x, weight = features(), torch.randn(5, 5, dtype=torch.float64)
    view = preconditioner_view(x, {"gcp": covariance(weight)})
    for same in (x.flatten(2), x.unflatten(3, (2, 3)), x.to(memory_format=torch.channels_last)):
        assert near(
            preconditioner_view(same, {"gcp": covariance(weight)}).gradients["gcp"].norm, view.gradients["gcp"].norm
        )


@pytest.mark.parametrize("channel_dim", [-1, 2])
def test_tokens(device, channel_dim):
    x, weight = features(device=device), torch.randn(5, 5, dtype=torch.float64)
    losses = {"avg": average(weight[0]), "gcp": covariance(weight)}
    expected = preconditioner_view(x, losses)
    of_tokens = {name: lambda t, loss=loss: loss(t.mT.unflatten(2, (4, 6))) for name, loss in losses.items()}
    found = preconditioner_view(x.flatten(2).mT, of_tokens, channel_dim=channel_dim)
    assert near(found.eigenvalues, expected.eigenvalues)
    for name, gradient in expected.gradients.items():
        for what, numbers in vars(gradient).items():
            assert near(getattr(found.gradients[name], what), numbers), what
    assert near(found.gradients["avg"].common_share, 1)


def test_a_network_behind_the_features_is_left_as_it_was():
    head = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(5), nn.Dropout(0.5), GCP(5, dim=None), nn.Linear(15, 1))
    x = features(dtype=torch.float32)
    kept, before, state = x.clone(), copy.deepcopy(head.state_dict()), torch.get_rng_state()
    view = preconditioner_view(x, {name: lambda x: head(x).sum() for name in ("one", "again")}, model=head)
    assert torch.equal(view.gradients["one"].gradient, view.gradients["again"].gradient)
    assert torch.equal(x, kept)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert all(parameter.grad is None for parameter in head.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_inference_mode_is_named():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch.inference_mode\(\) does not allow"):
        preconditioner_view(features(), {"avg": torch.sum})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": 1}, TypeError, "features must be a torch.Tensor, got int"),
        ({"features": torch.ones(2, 3)}, ValueError, "x must have a batch, a channel and at least one spatial"),
        ({"channel_dim": 0}, ValueError, "channel_dim must be a dimension of x other than the batch"),
        ({"channel_dim": "last"}, TypeError, "channel_dim must be an int, got 'last'"),
        ({"losses": [torch.sum]}, TypeError, "losses must be a mapping from names to callables, got list"),
        ({"losses": {}}, ValueError, "at least one loss"),
        ({"losses": {"avg": 1.0}}, TypeError, r"losses\['avg'\] must be callable, got float"),
        ({"losses": {"avg": lambda x: x.mean((2, 3))}}, ValueError, "the loss must have one element"),
        ({"losses": {"avg": lambda x: torch.ones(())}}, ValueError, "'avg' does not depend on the features"),
        ({"model": "head"}, TypeError, "model must be a torch.nn.Module, got str"),
        ({"features": torch.tensor([[[1.0, float("nan")]]])}, ValueError, "features must be finite"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        preconditioner_view(**{"features": torch.ones(1, 2, 3, 3), "losses": {"avg": torch.sum}, **change})
