"""compile, export, double backward, torch.func and DDP give what eager mode or the reference gives."""

import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, reference, triu_unvec, triu_vec
from gcp_kernels.nn import GCP
from tests.support import inputs, tolerances

pytestmark = pytest.mark.versions

# Function, its twin in the reference, shape of the input.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "fused_gcp_triu": (
        lambda x: fused_gcp(x, n_iter=3),
        lambda x: reference.triu_vec(reference.isqrt_pool(x, 3)),
        (3, 4, 6),
    ),
    "fused_gcp_full": (
        lambda x: fused_gcp(x, output="full"),
        lambda x: reference.isqrt_pool(x),
        (3, 4, 3),  # on the side of the positions
    ),
    "fused_gcp_tokens": (
        lambda x: fused_gcp(x, channel_dim=-1),
        lambda x: reference.triu_vec(reference.isqrt_pool(x.mT)),
        (3, 6, 4),
    ),
    "fused_gcp_one_iteration": (
        lambda x: fused_gcp(x, n_iter=1),
        lambda x: reference.triu_vec(reference.isqrt_pool(x, 1)),
        (3, 4, 6),
    ),
    "covariance_pool_triu": (
        lambda x: covariance_pool(x, output="triu"),
        lambda x: reference.triu_vec(reference.covariance_pool(x)),
        (3, 4, 6),
    ),
    "covariance_pool_full": (covariance_pool, reference.covariance_pool, (3, 4, 6)),
    "newton_schulz_sqrt": (newton_schulz_sqrt, reference.newton_schulz_sqrt, (3, 4, 4)),
    "triu_vec": (triu_vec, reference.triu_vec, (3, 4, 4)),
    "triu_unvec": (triu_unvec, reference.triu_unvec, (3, 10)),
}


def example(name: str, device: str = "cpu", extra: tuple[int, ...] = ()) -> Tensor:
    if name == "newton_schulz_sqrt":
        cov = inputs.covariance_matrices(3 * (extra[0] if extra else 1), 4).to(device)
        return cov.view(*extra, 3, 4, 4)
    return torch.randn(*extra, *FUNCTIONS[name][2], dtype=torch.float64, device=device)


def weighted(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a scalar of the output that treats every element of it differently, mirrored ones too."""

    def loss(x: Tensor) -> Tensor:
        value = function(x)
        weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
        return (weights * value + (value * weights.sin()) ** 2).sum()

    return loss


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiles(function: Callable[[Tensor], Tensor], xs: list[Tensor], backend: str, dynamic: bool | None) -> None:
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
    for x in xs:
        x.requires_grad_()
        value, expected = compiled(x), function(x)
        tolerances.assert_same_float64(value, expected, "value")
        grad = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(value, x, grad)
        tolerances.assert_same_float64(gradient, torch.autograd.grad(expected, x, grad)[0], "gradient")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile(name: str, device: str) -> None:
    assert_compiles(FUNCTIONS[name][0], [example(name, device)], "aot_eager", None)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile_with_dynamic_sizes(name: str, device: str) -> None:
    first = example(name, device)
    other = {"newton_schulz_sqrt": (5, 6, 6), "triu_vec": (5, 6, 6), "triu_unvec": (5, 21)}.get(name, (5, 7, 8))
    second = torch.rand(other, dtype=torch.float64, device=device)
    if name == "newton_schulz_sqrt":
        second = second @ second.mT
    assert_compiles(FUNCTIONS[name][0], [first, second], "aot_eager", True)


@pytest.mark.skipif(" " in sys.prefix, reason="torch's own compiler cannot link from a path with a space")
@pytest.mark.usefixtures("fresh_compiler")
def test_compile_with_inductor(device: str) -> None:
    head = nn.Sequential(GCP(5, dim=3), nn.Linear(6, 2)).to(device, torch.float64).eval()
    assert_compiles(head, [torch.randn(3, 5, 4, 4, dtype=torch.float64, device=device)], "inductor", None)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("dim", [3, None])
def test_compile_a_layer(dim: int | None, dynamic: bool | None, device: str) -> None:
    layer = GCP(5, dim).to(device, torch.float64).eval()
    batches = [torch.randn(b, 5, 4, 4, dtype=torch.float64, device=device) for b in (3, 6)]
    assert_compiles(layer, batches, "aot_eager", dynamic)


@pytest.mark.parametrize("dim", [3, None])
def test_export(dim: int | None, device: str) -> None:
    model = nn.Sequential(pool := GCP(5, dim), nn.Linear(pool.out_features, 2)).to(device, torch.float64).eval()
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64, device=device)
    program = torch.export.export(model, (x,))
    tolerances.assert_same_float64(program.module()(x), model(x), "exported")

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    for b in (2, 3, 7):
        x = torch.randn(b, 5, 4, 4, dtype=torch.float64, device=device)
        tolerances.assert_same_float64(program.module()(x), model(x), "exported with a dynamic batch")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_double_backward_is_that_of_the_reference(name: str, device: str) -> None:
    def second_order(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        x, grad = x.clone().requires_grad_(), grad.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x), x, grad, create_graph=True)
        penalty = (gradient * torch.linspace(-1, 1, gradient.numel()).view_as(gradient).to(gradient)).sum()
        return gradient, *torch.autograd.grad(penalty + (gradient**2).sum(), (x, grad), materialize_grads=True)

    function, exact, _ = FUNCTIONS[name]
    x = example(name, device)
    grad = torch.randn_like(function(x))
    results = second_order(function, x, grad), second_order(exact, x, grad)
    for what, ours, theirs in zip(("gradient", "by the input", "by the upstream"), *results, strict=True):
        if theirs.any():
            tolerances.assert_same_float64(ours, theirs, what)
        else:  # linear functions
            assert not ours.any(), what


@pytest.mark.parametrize("name", ["fused_gcp_triu", "covariance_pool_full", "newton_schulz_sqrt"])
def test_third_derivative(name: str, device: str) -> None:
    function, exact, _ = FUNCTIONS[name]
    x = example(name, device).requires_grad_()
    results = []
    for f in (function, exact):
        y = (f(x) ** 3).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(y, x, create_graph=True)
            y = (gradient**2).sum()
        results.append(gradient.detach())
    tolerances.assert_same_float64(results[0], results[1], "third derivative")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_func_grad_and_hessian_vector_product(name: str, device: str) -> None:
    function, exact, _ = FUNCTIONS[name]
    x = example(name, device)
    v = torch.randn_like(x)
    ours, theirs = (torch.func.grad(weighted(f)) for f in (function, exact))
    tolerances.assert_same_float64(ours(x), theirs(x), "grad")
    products = [torch.func.vjp(gradient, x)[1](v)[0] for gradient in (ours, theirs)]
    if products[1].any():
        tolerances.assert_same_float64(*products, "Hessian-vector product")
    plain = torch.autograd.functional.hvp(weighted(function), x, v)[1]
    tolerances.assert_same_float64(plain, products[1], "Hessian-vector product by double backward")


@pytest.mark.parametrize("in_dim", [0, 1, -1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_is_a_loop(name: str, in_dim: int, device: str) -> None:
    function, exact, _ = FUNCTIONS[name]
    stacked = example(name, device, extra=(2,))
    mapped = stacked.movedim(0, in_dim)
    for transform in (lambda f: f, lambda f: torch.func.grad(weighted(f))):
        ours = torch.func.vmap(transform(function), in_dims=in_dim)(mapped)
        loop = torch.stack([transform(exact)(x) for x in stacked])
        tolerances.assert_same_float64(ours, loop, "mapped")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_of_vmap(name: str, device: str) -> None:
    function, exact, _ = FUNCTIONS[name]
    stacked = torch.stack([example(name, device, extra=(2,)) for _ in range(3)])
    ours = torch.func.vmap(torch.func.vmap(torch.func.grad(weighted(function))), in_dims=1)(stacked.transpose(0, 1))
    loop = torch.stack([torch.stack([torch.func.grad(weighted(exact))(x) for x in xs]) for xs in stacked])
    tolerances.assert_same_float64(ours, loop, "mapped twice")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_of_a_pullback(name: str, device: str) -> None:
    """Only the upstream gradient is mapped; the features and what was kept of them are shared."""
    function, exact, _ = FUNCTIONS[name]
    x = example(name, device)
    value, pull_back = torch.func.vjp(function, x)
    grads = torch.randn(4, *value.shape, dtype=torch.float64, device=device)
    (ours,) = torch.func.vmap(pull_back)(grads)
    _, exact_pull_back = torch.func.vjp(exact, x)
    loop = torch.stack([exact_pull_back(grad)[0] for grad in grads])
    tolerances.assert_same_float64(ours, loop, "mapped")


def test_batched_gradients_of_autograd(device: str) -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    value, exact = fused_gcp(x), reference.triu_vec(reference.isqrt_pool(x))
    grads = torch.randn(4, *value.shape, dtype=torch.float64, device=device)
    (ours,) = torch.autograd.grad(value, x, grads, is_grads_batched=True)
    (theirs,) = torch.autograd.grad(exact, x, grads, is_grads_batched=True)
    tolerances.assert_same_float64(ours, theirs, "batched gradient")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacrev(name: str, device: str) -> None:
    function, exact, _ = FUNCTIONS[name]
    x = example(name, device)
    tolerances.assert_same_float64(torch.func.jacrev(function)(x), torch.func.jacrev(exact)(x), "Jacobian")


def test_per_sample_gradients_of_a_layer(device: str) -> None:
    """vmap(grad) over samples through functional_call, the usual way to per-sample gradients."""
    model = nn.Sequential(GCP(5, dim=None), nn.Linear(15, 1)).to(device, torch.float64)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x[None],)).sum() ** 2

    xs = torch.randn(4, 5, 3, 3, dtype=torch.float64, device=device)
    ours = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, xs)
    for i, x in enumerate(xs):
        expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            tolerances.assert_same_float64(ours[name][i], gradient, name)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_distributed_data_parallel() -> None:
    model = nn.Sequential(GCP(5, dim=3), nn.Linear(6, 2)).double()
    x = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    model(x).pow(2).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        try:
            nn.parallel.DistributedDataParallel(model)(x).pow(2).sum().backward()
        finally:
            torch.distributed.destroy_process_group()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        tolerances.assert_same_float64(parameter.grad, gradient, "gradient")
