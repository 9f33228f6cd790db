"""Covariance pooling with a scale for each channel: values, both gradients, special cases, layouts and transforms.

The bad scales are in test_bad_input.py, the operators' own properties in test_operators.py.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gcp_kernels import covariance_pool, reference
from tests.support import inputs, oracle, tolerances
from tests.support.accuracy import DTYPES, NOT_FOR_FLOAT16_COVARIANCE, name_of, skip_unless_it_runs, upstream
from tests.support.pairwise import combined
from tests.support.scaled_covariance import (
    NAMES,
    OUTPUTS,
    exact_values,
    pool_by,
    scales,
    unfused_values,
    value_and_gradients,
)

SIZES = ((1, 49), (3, 1), (3, 2), (48, 49), (130, 196))


def check(x: Tensor, scale: Tensor, backend: str, device: str, precision: str | None = None) -> None:
    """Check that value and gradients of both outputs are as accurate as unfused."""
    skip_unless_it_runs(backend, "covariance_pool", x.to(device))
    b, c, _ = x.shape
    for output in OUTPUTS:
        grad, grad_matrix = upstream(c, output, b, x.dtype)
        pool = pool_by(backend, output, precision)
        ours = value_and_gradients(pool, x.to(device), scale.to(device), grad.to(device))
        unfused = unfused_values(x, scale, grad, output, precision)
        exact = exact_values(x, scale, grad_matrix, output)
        for what, actual, theirs, truth in zip(NAMES, ours, unfused, exact, strict=True):
            if actual.dtype == torch.float64 and x.dtype != torch.float64:
                actual = actual.float()  # a float64 scale gets a gradient of float32 sums
            tolerances.assert_as_accurate(actual, theirs.to(actual.dtype), truth, f"{output} {what}")


@pytest.mark.parametrize(("c", "m"), [(1, 3), (2, 1), (5, 4), (16, 30)])
def test_reference_and_its_gradients_are_the_definition(c: int, m: int) -> None:
    x, scale, grad = inputs.relu_features(3, c, m), scales(3, c), torch.randn(3, c, c, dtype=torch.float64)
    ours = value_and_gradients(reference.covariance_pool, x, scale, grad)
    for what, actual, truth in zip(NAMES, ours, exact_values(x, scale, grad, "full"), strict=True):
        tolerances.assert_same_float64(actual, truth, what)


def test_two_channels_by_hand(device: str) -> None:
    x = torch.tensor([[[1.0, 3.0], [5.0, 1.0]]], dtype=torch.float64, device=device)  # covariance (1 -2; -2 4)
    scale = torch.tensor([[3.0, -0.5]], dtype=torch.float64, device=device)
    for backend in (None, "reference"):
        assert covariance_pool(x, scale=scale, backend=backend).tolist() == [[[9.0, 3.0], [3.0, 1.0]]]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize(("dtype", "spectrum", "size"), combined(DTYPES, list(inputs.SPECTRA), SIZES), ids=name_of)
def test_accuracy(dtype: torch.dtype, spectrum: str, size: tuple[int, int], backend: str, device: str) -> None:
    c, m = size
    if dtype == torch.float16 and spectrum in NOT_FOR_FLOAT16_COVARIANCE:
        pytest.skip("the covariance is out of the range of float16")
    check(inputs.SPECTRA[spectrum](2, c, m, dtype), scales(2, c, dtype), backend, device)


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_precision_asked_for(dtype: torch.dtype, precision: str, backend: str, device: str) -> None:
    check(inputs.relu_features(2, 64, 49, dtype), scales(2, 64, dtype), backend, device, precision)


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("scale_dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_scale_of_another_dtype(dtype: torch.dtype, scale_dtype: torch.dtype, backend: str, device: str) -> None:
    check(inputs.relu_features(2, 48, 49, dtype), scales(2, 48, scale_dtype), backend, device)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize(("b", "c"), [(300, 3), (300, 64)])
def test_batch_larger_than_what_is_worked_on_at_once(b: int, c: int, backend: str, device: str) -> None:
    check(inputs.relu_features(b, c, 20, torch.float32), scales(b, c, torch.float32), backend, device)


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("output", OUTPUTS)
def test_numerical_derivatives(output: str, backend: str, device: str) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    scale = torch.tensor([[1.5, 0.0, -0.7], [0.3, 2.0, 1.0]], dtype=torch.float64, device=device, requires_grad=True)
    skip_unless_it_runs(backend, "covariance_pool", x)
    assert gradcheck(pool_by(backend, output), (x, scale))
    assert gradgradcheck(pool_by(backend, output), (x, scale))


@pytest.mark.operation("covariance_pool")
def test_scale_of_ones_is_the_plain_covariance(backend: str, device: str) -> None:
    x = torch.randn(3, 6, 20, device=device, requires_grad=True)
    value, plain = (covariance_pool(x, scale=s, backend=backend) for s in (torch.ones(3, 6, device=device), None))
    grad = torch.randn_like(plain)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (value, plain)))


@pytest.mark.operation("covariance_pool")
def test_without_a_scale_its_gradient_is_empty(backend: str, device: str) -> None:
    x = torch.randn(3, 6, 20, device=device)
    cov, centre = torch.ops.gcp_kernels.covariance_pool(x, None, False, "default", backend)
    grad_x, grad_scale = torch.ops.gcp_kernels.covariance_pool_backward(cov, x, None, centre, False, "default", backend)
    assert grad_x.shape == x.shape
    assert grad_scale.shape == (3, 0)
    assert grad_scale.dtype == x.dtype


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("wanted", [0, 1])
def test_gradient_of_one_of_the_two(wanted: int, backend: str, device: str) -> None:
    x, scale = torch.randn(2, 6, 9, device=device), scales(2, 6, torch.float32).to(device)
    pool, grad = pool_by(backend), torch.randn(2, 6, 6, device=device)
    both = value_and_gradients(pool, x, scale, grad)[1:]
    leaf = (x, scale)[wanted].requires_grad_()
    pool(x, scale).backward(grad)
    assert torch.equal(leaf.grad, both[wanted])
    assert (x, scale)[1 - wanted].grad is None


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_dropped_channels(dtype: torch.dtype, backend: str, device: str) -> None:
    """Zero rows and columns and zero gradient; the scale, which could grow from zero again, gets the right gradient."""
    x, scale, grad = inputs.relu_features(3, 8, 20, dtype), torch.randn(3, 8).to(dtype), torch.randn(3, 8, 8).to(dtype)
    scale[:, 1::3] = 0
    scale[2] = 0  # nothing left of one sample
    skip_unless_it_runs(backend, "covariance_pool", x.to(device))
    ours = value_and_gradients(pool_by(backend), *(tensor.to(device) for tensor in (x, scale, grad)))
    value, grad_x, grad_scale = (result.cpu() for result in ours)
    assert not value[scale == 0].any()
    assert not value.mT[scale == 0].any()
    assert not grad_x[scale == 0].any()
    exact = oracle.covariance_pool_scale_grad(x, grad.double(), scale)
    assert exact[:2, 1::3].all()
    assert not grad_scale[2].any()
    tolerances.assert_promise_kept(grad_scale[:2], exact[:2], "fast", "gradient by the scale")
    tolerances.assert_promise_kept(grad_scale[:2, 1::3], exact[:2, 1::3], "fast", "gradient by the scale of a zero")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("m", [1, 3, 49])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_constant_sample_gives_exact_zeros_and_zero_gradients(
    dtype: torch.dtype, m: int, backend: str, device: str
) -> None:
    x = torch.tensor([0.1, 0.7, -3.3, 1e4]).to(device, dtype)[None, :, None].repeat(3, 1, m)
    x[1] = torch.randn(4, m).to(x)
    skip_unless_it_runs(backend, "covariance_pool", x)
    pool = pool_by(backend)
    # With factors as large as those of DropCov, which divides by 1 - p.
    for scale in (torch.randn(3, 4), 10 * torch.randn(3, 4)):
        for result in value_and_gradients(pool, x, scale.to(x)):
            assert not result[::2].any()
            assert result.isfinite().all()
            assert m == 1 or result[1].any()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize(
    ("dtype", "where", "bad"), combined(DTYPES, ("x", "scale", "grad"), (float("nan"), float("inf"), -float("inf"))),
    ids=name_of,
)  # fmt: skip
def test_nan_or_infinity_stays_in_its_sample(
    dtype: torch.dtype, where: str, bad: float, backend: str, device: str
) -> None:
    given = {"x": torch.randn(3, 4, 9), "scale": torch.randn(3, 4), "grad": torch.randn(3, 4, 4)}
    given = {name: tensor.to(device, dtype) for name, tensor in given.items()}
    skip_unless_it_runs(backend, "covariance_pool", given["x"])
    pool = pool_by(backend)
    clean = value_and_gradients(pool, **given)
    given[where][1, 2] = bad
    for what, ours, undisturbed in zip(NAMES, value_and_gradients(pool, **given), clean, strict=True):
        assert (where, what) == ("grad", "value") or not ours[1].isfinite().all(), f"{what}: the bad value was hidden"
        assert torch.equal(ours[::2], undisturbed[::2]), f"{what}: the bad value reached another sample"


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_empty_batch(dtype: torch.dtype, output: str, backend: str, device: str) -> None:
    x, scale = torch.empty(0, 4, 9, dtype=dtype, device=device), torch.empty(0, 4, device=device)
    skip_unless_it_runs(backend, "covariance_pool", x)
    value, _, _ = value_and_gradients(pool_by(backend, output), x, scale)
    assert value.shape == ((0, 10) if output == "triu" else (0, 4, 4))


@pytest.mark.usefixtures("several_threads")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [(5, 6, 9), (40, 32, 49)])
def test_two_runs_are_bitwise_equal(shape: tuple[int, ...], dtype: torch.dtype, backend: str, device: str) -> None:
    x, scale = torch.randn(shape).to(device, dtype), scales(*shape[:2], dtype).to(device)
    skip_unless_it_runs(backend, "covariance_pool", x)
    grad = torch.randn(shape[0], shape[1], shape[1]).to(x)
    pool = pool_by(backend)
    for first, second in zip(*(value_and_gradients(pool, x, scale, grad) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


# How a scale of shape (3, 6) lies in memory: shape of a base tensor, and the view of it that scales.
SCALE_LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "contiguous": ((3, 6), lambda base: base),
    "for_all_samples": ((6,), lambda base: base.expand(3, 6)),
    "for_all_channels": ((3, 1), lambda base: base.expand(3, 6)),
    "one_number": ((), lambda base: base.expand(3, 6)),
    "transposed": ((6, 3), lambda base: base.mT),
    "every_second_channel": ((3, 12), lambda base: base[:, 1::2]),
    "every_second_sample": ((6, 6), lambda base: base[::2]),
    "part_of_the_channels": ((3, 9), lambda base: base[:, 2:8]),
    "squeezed": ((3, 6, 1, 1), lambda base: base[..., 0, 0]),
    "negative_view": ((3, 6, 2), lambda base: torch.view_as_complex(base).conj().imag),
}


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("layout", SCALE_LAYOUTS)
@pytest.mark.parametrize("features", ["contiguous", "tokens", "sliced"])
def test_layouts_of_scale_and_features(features: str, layout: str, backend: str, device: str) -> None:
    shape, view = SCALE_LAYOUTS[layout]
    base = torch.randn(shape, device=device, requires_grad=True)
    x = torch.randn({"contiguous": (3, 6, 20), "tokens": (3, 20, 6), "sliced": (3, 12, 40)}[features], device=device)
    x = (x[:, ::2, ::2] if features == "sliced" else x).requires_grad_()
    value = covariance_pool(x, scale=view(base), channel_dim=-1 if features == "tokens" else 1, backend=backend)
    grad = torch.randn_like(value)
    gradients = torch.autograd.grad(value, (x, base), grad)
    precise = [tensor.detach().double().requires_grad_() for tensor in (x, base)]
    expected = reference.covariance_pool(precise[0].mT if features == "tokens" else precise[0], view(precise[1]))
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
    exact = torch.autograd.grad(expected, precise, grad.double())
    for gradient, truth in zip(gradients, exact, strict=True):
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-4, atol=1e-5)


UPSTREAM: dict[str, Callable[[Tensor], Tensor]] = {
    "one_number_expanded": lambda grad: grad.flatten()[0].expand_as(grad),
    "expanded_over_the_batch": lambda grad: grad[:1].expand_as(grad),
    "transposed": lambda grad: grad.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda grad: torch.stack([grad, grad.neg()], dim=-1)[..., 0],
    "zero": torch.zeros_like,
}


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("layout", UPSTREAM)
def test_layouts_of_the_upstream_gradient(layout: str, output: str, backend: str, device: str) -> None:
    x, scale = torch.randn(3, 5, 9, device=device), scales(3, 5, torch.float32).to(device)
    pool = pool_by(backend, output)
    grad = UPSTREAM[layout](torch.randn_like(pool(x, scale)))
    ours = value_and_gradients(pool, x, scale, grad)
    dense = value_and_gradients(pool, x, scale, grad.clone(memory_format=torch.contiguous_format))
    for actual, expected in zip(ours, dense, strict=True):
        torch.testing.assert_close(actual, expected)


def test_the_callers_scale_is_saved_and_no_copy(device: str) -> None:
    x = torch.randn(3, 6, 9, device=device, requires_grad=True)
    scale = torch.randn(6, device=device).expand(3, 6)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        covariance_pool(x, scale=scale)
    assert [tuple(tensor.shape) for tensor in saved] == [(3, 6, 9), (3, 6), (3, 6)]
    assert {x.data_ptr(), scale.data_ptr()} <= {tensor.data_ptr() for tensor in saved}


@pytest.mark.parametrize("wanted", [0, 1])
@pytest.mark.parametrize("changed", [0, 1])
def test_input_changed_before_backward_is_an_error(changed: int, wanted: int, device: str) -> None:
    tensors = [torch.randn(3, 6, 9, device=device), torch.randn(3, 6, device=device)]
    tensors[wanted].requires_grad_()
    given = [tensor * 1 for tensor in tensors]
    value = covariance_pool(given[0], scale=given[1])
    with torch.no_grad():
        given[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_autocast_changes_nothing(
    dtype: torch.dtype, backend: str | None, autocast_dtype: torch.dtype, device: str
) -> None:
    """A gate under autocast is half precision, the features need not be."""
    x, scale = torch.randn(2, 6, 9).to(device, dtype), torch.randn(2, 6).to(device, autocast_dtype)
    grad = torch.randn(2, 6, 6).to(x)

    def pool(x: Tensor, scale: Tensor) -> Tensor:
        with torch.autocast(device, dtype=autocast_dtype):
            return covariance_pool(x, scale=scale, backend=backend)

    plain = value_and_gradients(pool_by(backend), x, scale, grad)
    for actual, expected in zip(value_and_gradients(pool, x, scale, grad), plain, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("scale_dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_reference_as_a_backend(dtype: torch.dtype, scale_dtype: torch.dtype, device: str) -> None:
    x, scale = torch.randn(2, 6, 9).to(device, dtype), torch.randn(2, 6).to(device, scale_dtype)
    precise = [tensor.to(tolerances.accumulation_dtype(dtype)) for tensor in (x, scale)]
    expected = reference.covariance_pool(*precise).to(dtype)
    value, _, _ = value_and_gradients(pool_by("reference"), x, scale)
    assert torch.equal(value, expected)
