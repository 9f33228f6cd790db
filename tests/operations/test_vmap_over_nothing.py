"""torch.vmap over no samples, empty batches, tensors without values: a result of the right shape, never an error."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import gcp_kernels
from gcp_kernels.nn import DropCov, MultiHeadCrossCovariance
from tests.support.public_functions import CASES, argnums, loss_of


def shapes(results: Tensor | tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(result.shape) for result in (results if isinstance(results, tuple) else (results,))]


@pytest.mark.parametrize("in_dim", [0, 1, -1])
@pytest.mark.parametrize("name", CASES)
def test_no_samples(name: str, in_dim: int, device: str) -> None:
    given = tuple(tensor.to(device) for tensor in CASES[name].given())
    function, by = CASES[name].function, argnums(given)
    none = tuple(tensor.expand(0, *tensor.shape).movedim(0, in_dim) for tensor in given)
    assert shapes(vmap(function, in_dims=in_dim)(*none)) == [(0, *function(*given).shape)]
    gradients = vmap(grad(loss_of(function), by), in_dims=in_dim)(*none)
    assert shapes(gradients) == [(0, *tensor.shape) for tensor in given]
    through = grad(lambda *none: vmap(function, in_dims=in_dim)(*none).sum(), by)(*none)
    assert shapes(through) == shapes(none)


@pytest.mark.parametrize("name", CASES)
def test_no_values(name: str) -> None:
    """Nor does a function, its twin or what they are given need any device but that of the arguments."""
    given = CASES[name].given()
    meta = tuple(tensor.to("meta") for tensor in given)
    for function in (CASES[name].function, CASES[name].exact):
        assert shapes(function(*meta)) == shapes(function(*given))
        assert function(*meta).is_meta


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("name", CASES)
def test_no_samples_of_samples(name: str, sizes: tuple[int, int]) -> None:
    given = CASES[name].given()
    none = tuple(tensor.expand(*sizes, *tensor.shape) for tensor in given)
    assert shapes(vmap(vmap(CASES[name].function))(*none)) == [(*sizes, *CASES[name].function(*given).shape)]
    gradients = vmap(vmap(grad(loss_of(CASES[name].function), argnums(given))))(*none)
    assert shapes(gradients) == [(*sizes, *tensor.shape) for tensor in given]


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].given()) == 2])
def test_no_samples_of_one_argument(name: str) -> None:
    first, second = CASES[name].given()
    expected = [(0, *CASES[name].function(first, second).shape)]
    assert shapes(vmap(CASES[name].function, in_dims=(0, None))(first.expand(0, *first.shape), second)) == expected
    assert shapes(vmap(CASES[name].function, in_dims=(None, 0))(first, second.expand(0, *second.shape))) == expected


@pytest.mark.parametrize("transform", [lambda f: f, jacrev, jacfwd, lambda f: lambda *xs: jvp(f, xs, xs)[1]])
@pytest.mark.parametrize("name", [name for name in CASES if name != "dropcov"])
def test_empty_batches(name: str, transform: Callable[..., Callable[..., Tensor]]) -> None:
    """As many samples as there are, of no elements each; dropcov's mask is for two."""
    given = CASES[name].given()
    function = transform(CASES[name].function)
    empty = tuple(tensor[:0] for tensor in given)
    first = function(*empty).shape
    assert first[0] == 0
    for samples in (0, 2):
        stacked = tuple(tensor.expand(samples, *tensor.shape) for tensor in empty)
        assert shapes(vmap(function)(*stacked)) == [(samples, *first)]


@pytest.mark.parametrize("name", CASES)
def test_in_chunks(name: str) -> None:
    stacked = tuple(tensor.expand(3, *tensor.shape) for tensor in CASES[name].given())
    whole = vmap(CASES[name].function)(*stacked)
    torch.testing.assert_close(vmap(CASES[name].function, chunk_size=2)(*stacked), whole)


@pytest.mark.filterwarnings("error:There is a performance drop")  # what torch.vmap says where it loops over samples
@pytest.mark.parametrize("samples", [0, 3])
@pytest.mark.parametrize("randomness", ["same", "different"])
def test_randomness_of_dropcov(randomness: str, samples: int) -> None:
    x = torch.randn(2, 64, 10)  # of which about half the channels are dropped
    stacked = x.expand(samples, *x.shape)

    def pool(x: Tensor) -> Tensor:
        return gcp_kernels.dropcov(x, torch.zeros(1, 1, 3), training=True)

    for function in (pool, DropCov(64, dim=None)):
        values = [vmap(function, randomness=randomness)(stacked) for _ in range(2)]
        assert {value.shape for value in values} == {(samples, 2, 2080)}
        for value in values:
            assert all(torch.equal(value[0], other) == (randomness == "same") for other in value[1:])
    assert vmap(grad(lambda x: pool(x).sum()), randomness=randomness)(stacked).shape == stacked.shape


def test_layers_over_no_samples() -> None:
    layer = MultiHeadCrossCovariance(4, 2, 2)
    assert vmap(layer)(torch.randn(0, 2, 5, 4)).shape == (0, 2, 8)
