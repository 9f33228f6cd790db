"""Autocast: a function takes what it is given, forward and backward, whatever autocast does to matrix products."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, precision, triu_unvec, triu_vec
from gcp_kernels.nn import GCP
from tests.support import inputs

pytestmark = pytest.mark.versions

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "fused_gcp": (fused_gcp, (2, 6, 9)),
    "fused_gcp_full": (lambda x: fused_gcp(x, output="full"), (2, 6, 9)),
    "covariance_pool": (covariance_pool, (2, 6, 9)),
    "newton_schulz_sqrt": (newton_schulz_sqrt, (2, 6, 6)),
    "triu_vec": (triu_vec, (2, 6, 6)),
    "triu_unvec": (triu_unvec, (2, 21)),
}
AUTOCAST_DTYPES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(params=FUNCTIONS)
def function(request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return FUNCTIONS[request.param][0]


@pytest.fixture
def x(request: pytest.FixtureRequest, device: str) -> Tensor:
    name = request.node.callspec.params["function"]
    if name == "newton_schulz_sqrt":
        return inputs.covariance_matrices(2, 6).to(device)
    return torch.randn(FUNCTIONS[name][1], dtype=torch.float64, device=device)


@pytest.mark.parametrize("autocast_dtype", AUTOCAST_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backward_inside", [False, True])
def test_same_values_and_gradients_with_and_without_autocast(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    dtype: torch.dtype,
    autocast_dtype: torch.dtype,
    backward_inside: bool,
    device: str,
) -> None:
    x = x.to(dtype).requires_grad_()
    plain = function(x)
    grad = torch.randn_like(plain)
    (plain_gradient,) = torch.autograd.grad(plain, x, grad)

    with torch.autocast(device, dtype=autocast_dtype):
        value = function(x)
        if backward_inside:
            (gradient,) = torch.autograd.grad(value, x, grad)
    if not backward_inside:
        (gradient,) = torch.autograd.grad(value, x, grad)

    assert value.dtype == gradient.dtype == dtype
    assert torch.equal(value, plain)
    assert torch.equal(gradient, plain_gradient)


@pytest.mark.parametrize("autocast_dtype", AUTOCAST_DTYPES)
@pytest.mark.parametrize("only_backward", [False, True])
def test_second_order_under_autocast(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    autocast_dtype: torch.dtype,
    only_backward: bool,
    device: str,
) -> None:
    def penalty_gradient(x: Tensor, autocast: bool) -> Tensor:
        with torch.autocast(device, dtype=autocast_dtype, enabled=autocast and not only_backward):
            value = (function(x) ** 3).sum()
        with torch.autocast(device, dtype=autocast_dtype, enabled=autocast):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            return torch.autograd.grad((gradient**2).sum(), x)[0]

    x = x.float().requires_grad_()  # autocast leaves float64 alone
    assert torch.equal(penalty_gradient(x, True), penalty_gradient(x, False))


@pytest.mark.parametrize("autocast_dtype", AUTOCAST_DTYPES)
def test_reference_backend_under_autocast(autocast_dtype: torch.dtype, device: str) -> None:
    x = inputs.relu_features(2, 6, 9, torch.float32).to(device).requires_grad_()
    plain = fused_gcp(x, backend="reference")
    with torch.autocast(device, dtype=autocast_dtype):
        value = fused_gcp(x, backend="reference")
    assert value.dtype == torch.float32
    assert torch.equal(value, plain)


@pytest.mark.parametrize("autocast_dtype", AUTOCAST_DTYPES)
def test_network_trains_a_step_under_autocast(autocast_dtype: torch.dtype, device: str) -> None:
    """The convolution of the reduction gives the autocast dtype; pooling takes that, and so does the classifier."""
    head = nn.Sequential(pool := GCP(8, dim=4), nn.Linear(pool.out_features, 3)).to(device)
    images = torch.randn(5, 8, 6, 6, device=device, requires_grad=True)
    with torch.autocast(device, dtype=autocast_dtype):
        logits = head(images)
        loss = nn.functional.cross_entropy(logits, torch.arange(5, device=device) % 3)
    loss.backward()
    assert logits.dtype == autocast_dtype
    for name, parameter in [*head.named_parameters(), ("images", images)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_autocast_is_disabled_on_every_device_that_has_it(monkeypatch):
    """On any that torch knows, and without the question, which Dynamo of torch 2.10 and 2.11 cannot trace."""
    with pytest.raises(RuntimeError) as refused:
        torch.device("nonsense")
    names = re.search(r"Expected one of (.*) device type", str(refused.value))[1].split(", ")
    assert {"cpu", "cuda", "meta"} <= set(names)
    current = [name for name in names if name not in ("mkldnn", "opengl", "opencl", "ideep", "hip")]  # deprecated
    without = {name for name in current if not torch.amp.is_autocast_available(name)}
    assert without == precision._WITHOUT_AUTOCAST

    def asked(device_type):
        raise AssertionError("asked again")

    monkeypatch.setattr(torch.amp, "is_autocast_available", asked)
    with torch.autocast("cpu", dtype=torch.bfloat16), precision.without_autocast(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with precision.without_autocast(torch.device("meta")):
        pass


def test_dynamo_traces_a_region_without_autocast():
    def doubled(x):
        with precision.without_autocast(x.device):
            return 2 * x

    compiled = torch.compile(doubled, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))
