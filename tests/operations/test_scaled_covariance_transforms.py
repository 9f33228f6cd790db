"""Covariance pooling with a scale under compile, export, torch.func and double backward, against the reference."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels import covariance_pool, reference
from tests.support import tolerances

Pool = Callable[[Tensor, Tensor], Tensor]


def full(x: Tensor, scale: Tensor) -> Tensor:
    return covariance_pool(x, scale=scale)


def triu(x: Tensor, scale: Tensor) -> Tensor:
    return covariance_pool(x, scale=scale, output="triu")


def exact_triu(x: Tensor, scale: Tensor) -> Tensor:
    return reference.triu_vec(reference.covariance_pool(x, scale))


# Function, and its twin in the reference.
FUNCTIONS: dict[str, tuple[Pool, Pool]] = {"full": (full, reference.covariance_pool), "triu": (triu, exact_triu)}

pytestmark = [pytest.mark.versions, pytest.mark.parametrize("name", FUNCTIONS)]


def example(device: str, *extra: int, b: int = 3, c: int = 4, m: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.randn(*extra, b, c, m, dtype=torch.float64, device=device)
    scale = torch.randn(*extra, b, c, dtype=torch.float64, device=device)
    scale[..., 1] = 0
    return x, scale


def loss_of(function: Pool) -> Pool:
    """Make a scalar that treats every element of the output differently, mirrored ones too."""

    def loss(x: Tensor, scale: Tensor) -> Tensor:
        value = function(x, scale)
        weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
        return (weights * value + (value * weights.sin()) ** 2).sum()

    return loss


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], what: str) -> None:
    for i, (actual, expected) in enumerate(zip(ours, theirs, strict=True)):
        tolerances.assert_same_float64(actual, expected, f"{what}, {i}")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [None, True])
def test_compile(name: str, dynamic: bool | None, device: str) -> None:
    function, _ = FUNCTIONS[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for sizes in ({}, {"b": 5, "c": 7, "m": 8}) if dynamic else ({},):
        leaves = [tensor.requires_grad_() for tensor in example(device, **sizes)]
        value, expected = compiled(*leaves), function(*leaves)
        grad = torch.randn_like(expected)
        assert_same((value,), (expected,), "value")
        assert_same(torch.autograd.grad(value, leaves, grad), torch.autograd.grad(expected, leaves, grad), "gradient")


def test_export(name: str, device: str) -> None:
    class Head(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return FUNCTIONS[name][0](x, scale)

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Head(), example(device), dynamic_shapes=({0: batch}, {0: batch}))
    for b in (2, 3, 7):
        given = example(device, b=b)
        tolerances.assert_same_float64(program.module()(*given), FUNCTIONS[name][1](*given), "exported")


# Of (x, scale): those that the loss is differentiated by.
BY = {"x": (0,), "scale": (1,), "both": (0, 1)}


@pytest.mark.parametrize("by", BY)
def test_double_backward_is_that_of_the_reference(name: str, by: str, device: str) -> None:
    """Of a penalty on some gradients: the derivatives by features, scale and upstream gradient."""
    x, scale = example(device)
    grad = torch.randn_like(FUNCTIONS[name][0](x, scale))

    def second_order(function: Pool) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in (x, scale, grad)]
        value = function(*leaves[:2])
        gradients = torch.autograd.grad(value, [leaves[i] for i in BY[by]], leaves[2], create_graph=True)
        penalty = sum((g.sin() ** 2).sum() for g in gradients)
        return *gradients, *torch.autograd.grad(penalty, leaves)

    assert_same(*map(second_order, FUNCTIONS[name]), "derivative")


@pytest.mark.parametrize("by", BY)
def test_third_derivative(name: str, by: str, device: str) -> None:
    results = []
    for function in FUNCTIONS[name]:
        torch.manual_seed(0)
        given = example(device)
        leaves = [given[i].requires_grad_() for i in BY[by]]
        y = (function(*given) ** 3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(y, leaves, create_graph=True)
            y = sum((gradient**2).sum() for gradient in gradients)
        results.append(tuple(gradient.detach() for gradient in gradients))
    assert_same(*results, "third derivative")


@pytest.mark.parametrize("by", BY)
def test_func_grad_and_hessian_vector_product(name: str, by: str, device: str) -> None:
    given, tangents = example(device), example(device)
    ours, theirs = (torch.func.grad(loss_of(function), argnums=BY[by]) for function in FUNCTIONS[name])
    assert_same(ours(*given), theirs(*given), "gradient")
    v = tuple(tangents[i] for i in BY[by])
    assert_same(*(torch.func.vjp(gradient, *given)[1](v) for gradient in (ours, theirs)), "Hessian-vector product")


@pytest.mark.parametrize("in_dims", [(0, 0), (1, -1), (0, None), (None, 0)])
def test_vmap_is_a_loop(name: str, in_dims: tuple[int | None, ...], device: str) -> None:
    stacked = example(device, 2)
    mapped = [t[0] if dim is None else t.movedim(0, dim) for t, dim in zip(stacked, in_dims, strict=True)]
    rows = [tuple(t[0 if dim is None else i] for t, dim in zip(stacked, in_dims, strict=True)) for i in range(2)]
    function, exact = FUNCTIONS[name]
    ours = torch.func.vmap(function, in_dims=in_dims)(*mapped)
    tolerances.assert_same_float64(ours, torch.stack([exact(*row) for row in rows]), "mapped")
    gradients = torch.func.vmap(torch.func.grad(loss_of(function), argnums=(0, 1)), in_dims=in_dims)(*mapped)
    loop = [torch.func.grad(loss_of(exact), argnums=(0, 1))(*row) for row in rows]
    assert_same(gradients, tuple(map(torch.stack, zip(*loop, strict=True))), "mapped gradient")


def test_vmap_of_a_pullback_and_jacobians(name: str, device: str) -> None:
    given = example(device)
    function, exact = FUNCTIONS[name]
    assert_same(*(torch.func.jacrev(f, argnums=(0, 1))(*given) for f in (function, exact)), "Jacobian")
    leaves = [tensor.requires_grad_() for tensor in given]
    value, expected = function(*leaves), exact(*leaves)
    grads = torch.randn(4, *value.shape, dtype=torch.float64, device=device)
    ours, theirs = (torch.autograd.grad(y, leaves, grads, is_grads_batched=True) for y in (value, expected))
    assert_same(ours, theirs, "batched gradient")
