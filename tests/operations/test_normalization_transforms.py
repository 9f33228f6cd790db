"""The normalisations under compile, export, torch.func, vmap and double backward, against eager mode or the reference.

Equal and zero eigenvalues are among the matrices, so that a derivative through eigenvectors would show as NaN.
"""

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels import (
    cross_covariance_pool,
    elementwise_power,
    matrix_log,
    matrix_power,
    newton_schulz_inverse_sqrt,
    reference,
    singular_value_power,
)
from gcp_kernels.nn import GCP, MultiHeadCrossCovariance, TokenFusionHead
from gcp_kernels.nn.normalization import HEAD_NORMALIZATIONS, NORMALIZATIONS, pool_and_normalize
from tests.support import inputs, tolerances

pytestmark = pytest.mark.versions

Function = Callable[..., Tensor]


def pooled(x: Tensor, normalization: str, **options: float) -> Tensor:
    """Pool and normalise features as a layer does, to the whole matrix."""
    given = {"channel_dim": 1, "output": "full", "precision": None, "backend": None}
    return pool_and_normalize(x, normalization, options, **given)


# Function, its twin in the reference, and the shapes of its arguments for a batch of b; C or w may be another size.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "matrix_power": (matrix_power, reference.matrix_power),
    "matrix_power_0.3": (lambda cov: matrix_power(cov, 0.3), lambda cov: reference.matrix_power(cov, 0.3)),
    "matrix_log": (matrix_log, reference.matrix_log),
    "pooled_power": (
        lambda x: pooled(x, "power", alpha=0.5),
        lambda x: reference.matrix_power(reference.covariance_pool(x)),
    ),
    "pooled_log": (
        lambda x: pooled(x, "log", eps=1e-3),
        lambda x: reference.matrix_log(reference.covariance_pool(x)),
    ),
    "newton_schulz_inverse_sqrt": (newton_schulz_inverse_sqrt, reference.newton_schulz_inverse_sqrt),
    "elementwise_power": (elementwise_power, reference.elementwise_power),
    "cross_covariance_pool": (cross_covariance_pool, reference.cross_covariance_pool),
    "singular_value_power": (singular_value_power, reference.singular_value_power),
}


def example(name: str, device: str, *extra: int, b: int = 3, c: int = 4) -> tuple[Tensor, ...]:
    if name.startswith(("matrix", "newton")):
        cov = inputs.covariance_matrices(int(torch.tensor(extra).prod()) * b, c).view(*extra, b, c, c)
        cov[..., -1, :, :] = torch.diag(torch.tensor([0.0, 0.0, *[1.5] * (c - 2)]))
        given = (cov,)
    elif name.startswith("pooled"):  # fewer positions than channels, repeated in one sample
        x = torch.randn(*extra, b, c, 3, dtype=torch.float64)
        x[..., -1, :, 0] = x[..., -1, :, 1]
        given = (x,)
    elif name == "elementwise_power":
        given = (torch.randn(*extra, b, c, dtype=torch.float64),)
    elif name == "cross_covariance_pool":
        given = tuple(torch.randn(*extra, b, 2, 6, w, dtype=torch.float64) for w in (c, 3))
    else:
        given = (torch.randn(*extra, b, 3, c, dtype=torch.float64), torch.randn(*extra, b, c, dtype=torch.float64))
    return tuple(tensor.to(device) for tensor in given)


def loss_of(function: Function) -> Function:
    """Make a scalar of the output that treats every element of it differently, mirrored ones too."""

    def loss(*given: Tensor) -> Tensor:
        value = function(*given)
        weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
        return (weights * value + (value * weights.sin()) ** 2).sum()

    return loss


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], what: str) -> None:
    for i, (actual, expected) in enumerate(zip(ours, theirs, strict=True)):
        tolerances.assert_same_float64(actual, expected, f"{what}, {i}")


def argnums(name: str) -> tuple[int, ...]:
    return tuple(range(len(example(name, "cpu"))))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiles(function: Function, examples: list[tuple[Tensor, ...]], backend: str, dynamic: bool | None) -> None:
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
    for given in examples:
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        value, expected = compiled(*leaves), function(*leaves)
        grad = torch.randn_like(expected)
        assert_same((value,), (expected,), "value")
        assert_same(torch.autograd.grad(value, leaves, grad), torch.autograd.grad(expected, leaves, grad), "gradient")


@pytest.mark.sampled(4)
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile(name: str, dynamic: bool | None, device: str) -> None:
    examples = [example(name, device)] + ([example(name, device, b=5, c=7)] if dynamic else [])
    assert_compiles(FUNCTIONS[name][0], examples, "aot_eager", dynamic)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_export(name: str, device: str) -> None:
    class Head(nn.Module):
        def forward(self, *given: Tensor) -> Tensor:
            return FUNCTIONS[name][0](*given)

    given = example(name, device)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Head(), given, dynamic_shapes=(tuple({0: batch} for _ in given),))
    for b in (2, 3, 7):
        given = example(name, device, b=b)
        tolerances.assert_same_float64(program.module()(*given), FUNCTIONS[name][0](*given), "exported")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_double_backward_is_that_of_the_reference(name: str, device: str) -> None:
    given = example(name, device)
    grad = torch.randn_like(FUNCTIONS[name][0](*given))

    def second_order(function: Function) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in (*given, grad)]
        gradients = torch.autograd.grad(function(*leaves[:-1]), leaves[:-1], leaves[-1], create_graph=True)
        penalty = sum((g.sin() ** 2).sum() for g in gradients)
        return *gradients, *torch.autograd.grad(penalty, leaves)

    assert_same(*map(second_order, FUNCTIONS[name]), "derivative")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_func_grad_and_hessian_vector_product(name: str, device: str) -> None:
    given, tangents = example(name, device), tuple(map(torch.randn_like, example(name, device)))
    ours, theirs = (torch.func.grad(loss_of(function), argnums=argnums(name)) for function in FUNCTIONS[name])
    assert_same(ours(*given), theirs(*given), "gradient")
    products = [torch.func.vjp(gradient, *given)[1](tangents) for gradient in (ours, theirs)]
    assert all(product.isfinite().all() for product in products[0])
    assert_same(*products, "Hessian-vector product")
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    gradients = torch.autograd.grad(loss_of(FUNCTIONS[name][0])(*leaves), leaves, create_graph=True)
    plain = torch.autograd.grad(gradients, leaves, tangents)
    assert_same(plain, products[1], "Hessian-vector product by double backward")


@pytest.mark.parametrize("in_dim", [0, 1, -1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_is_a_loop(name: str, in_dim: int, device: str) -> None:
    stacked = example(name, device, 2)
    mapped = tuple(tensor.movedim(0, in_dim) for tensor in stacked)
    rows = list(zip(*stacked, strict=True))
    function, exact = FUNCTIONS[name]
    ours = torch.func.vmap(function, in_dims=in_dim)(*mapped)
    tolerances.assert_same_float64(ours, torch.stack([exact(*row) for row in rows]), "mapped")
    gradients = torch.func.vmap(torch.func.grad(loss_of(function), argnums=argnums(name)), in_dims=in_dim)(*mapped)
    loop = [torch.func.grad(loss_of(exact), argnums=argnums(name))(*row) for row in rows]
    assert_same(gradients, tuple(map(torch.stack, zip(*loop, strict=True))), "mapped gradient")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobians_and_batched_gradients(name: str, device: str) -> None:
    given = example(name, device)
    function, exact = FUNCTIONS[name]
    assert_same(*(torch.func.jacrev(f, argnums=argnums(name))(*given) for f in (function, exact)), "Jacobian")
    leaves = [tensor.requires_grad_() for tensor in given]
    value, expected = function(*leaves), exact(*leaves)
    grads = torch.randn(4, *value.shape, dtype=torch.float64, device=device)
    ours, theirs = (torch.autograd.grad(y, leaves, grads, is_grads_batched=True) for y in (value, expected))
    assert_same(ours, theirs, "batched gradient")


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Make layers in float64, with the shape of one sample."""
    made: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        f"GCP_{name}": (GCP(5, dim=3, normalization=name), (5, 4, 4)) for name in NORMALIZATIONS
    }
    for normalization in HEAD_NORMALIZATIONS:
        made[f"MultiHeadCrossCovariance_{normalization}"] = (MultiHeadCrossCovariance(6, 2, 3, normalization), (7, 6))
    for fusion in ("sum", "concat"):
        made[f"TokenFusionHead_{fusion}"] = (TokenFusionHead(6, MultiHeadCrossCovariance(6, 2, 3), 4, fusion), (8, 6))
    return {name: (layer.double().eval(), shape) for name, (layer, shape) in made.items()}


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("name", "dynamic"), [(name, (None, True)[i % 2]) for i, name in enumerate(layers())])
def test_compile_a_layer(name: str, dynamic: bool | None, device: str) -> None:
    layer, shape = layers()[name]
    batches = [(torch.randn(b, *shape, dtype=torch.float64, device=device),) for b in (3, 6)]
    assert_compiles(layer.to(device), batches, "aot_eager", dynamic)


@pytest.mark.thorough
@pytest.mark.skipif(" " in sys.prefix, reason="torch's own compiler cannot link from a path with a space")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["GCP_power", "TokenFusionHead_sum"])
def test_compile_a_layer_with_inductor(name: str, device: str) -> None:
    layer, shape = layers()[name]
    assert_compiles(layer.to(device), [(torch.randn(3, *shape, dtype=torch.float64, device=device),)], "inductor", None)


@pytest.mark.parametrize("name", layers())
def test_export_a_layer(name: str, device: str) -> None:
    layer, shape = layers()[name]
    layer = layer.to(device)
    batch = torch.export.Dim("batch", min=1, max=1024)
    x = torch.randn(3, *shape, dtype=torch.float64, device=device)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    for b in (2, 3, 7):
        x = torch.randn(b, *shape, dtype=torch.float64, device=device)
        tolerances.assert_same_float64(program.module()(x), layer(x), "exported with a dynamic batch")


@pytest.mark.parametrize("name", ["GCP_power", "GCP_elementwise", "TokenFusionHead_sum"])
def test_per_sample_gradients_of_a_layer(name: str, device: str) -> None:
    layer, shape = layers()[name]
    parameters = dict(layer.to(device).named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return (torch.func.functional_call(layer, parameters, (x[None],)) ** 3).sum()

    xs = torch.randn(4, *shape, dtype=torch.float64, device=device)
    ours = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, xs)
    for i, x in enumerate(xs):
        expected = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
        for parameter, gradient in zip(parameters, expected, strict=True):
            tolerances.assert_same_float64(ours[parameter][i], gradient, parameter)
