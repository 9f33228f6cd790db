"""The normalisations in special cases: layouts, NaN, empty batches, dtypes, autocast, bad input, other backends."""

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from gcp_kernels import (
    cross_covariance_pool,
    elementwise_power,
    matrix_log,
    matrix_power,
    newton_schulz_inverse_sqrt,
    reference,
    singular_value_power,
)
from gcp_kernels.ops import backends
from tests.support import inputs, tolerances
from tests.support.refusals import refuses

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "matrix_power": matrix_power,
    "matrix_log": matrix_log,
    "newton_schulz_inverse_sqrt": newton_schulz_inverse_sqrt,
}
# Every function here, with the number of tensors that it takes.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **OPERATIONS,
    "elementwise_power": elementwise_power,
    "cross_covariance_pool": cross_covariance_pool,
    "singular_value_power": singular_value_power,
}


def arguments(name: str, dtype: torch.dtype = torch.float64, b: int = 3, device: str = "cpu") -> list[Tensor]:
    """Make batches of ``b`` to call the function with; a singular covariance among them."""
    if name in OPERATIONS:
        cov = inputs.covariance_matrices(b, 5)
        if b:
            cov[-1] = torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0]))
        given = [cov]
    elif name == "elementwise_power":
        given = [torch.randn(b, 7, dtype=torch.float64)]
    elif name == "cross_covariance_pool":
        given = [torch.randn(b, 2, 6, w, dtype=torch.float64) for w in (4, 5)]
    else:
        given = [torch.randn(b, 2, 4, 5, dtype=torch.float64), torch.randn(b, 2, 5, dtype=torch.float64)]
    return [tensor.to(device, dtype) for tensor in given]


def gradients_of(name: str, given: list[Tensor], grad: Tensor | None = None) -> list[Tensor]:
    """Compute the value, and the gradient of each argument."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    value = FUNCTIONS[name](*leaves)
    grad = torch.randn_like(value) if grad is None else grad
    return [value.detach(), *torch.autograd.grad(value, leaves, grad)]


def assert_untouched(ours: Tensor, undisturbed: Tensor) -> None:
    """Expect the same samples. A GPU may decompose a batch in as many sweeps as its worst matrix takes."""
    if ours.is_cuda:
        torch.testing.assert_close(ours, undisturbed)
    else:
        assert torch.equal(ours, undisturbed), "the bad value reached another sample"


def every_second(tensor: Tensor) -> Tensor:
    """Put the same values into every second element of the last dimension of a larger storage."""
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).flatten(-2)[..., ::2]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "batch_last": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    "every_second": every_second,
    "offset": lambda t: torch.cat([t.new_ones(7), t.flatten()])[7:].view_as(t),
    "negative_view": lambda t: torch.complex(t, -t).conj().imag,
}


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_layout_of_input_and_upstream_gradient(name: str, layout: str, device: str) -> None:
    given = arguments(name, device=device)
    grad = torch.randn_like(FUNCTIONS[name](*given))
    expected = gradients_of(name, given, grad)

    view = LAYOUTS[layout]
    laid_out = [view(tensor) for tensor in given]
    before = [tensor.clone() for tensor in laid_out]
    leaves = [tensor.detach().requires_grad_() for tensor in laid_out]
    value = FUNCTIONS[name](*leaves)
    strided_grad = view(grad)
    ours = [value, *torch.autograd.grad(value, leaves, strided_grad)]
    for i, (actual, right) in enumerate(zip(ours, expected, strict=True)):
        tolerances.assert_same_float64(actual, right, f"result {i}")
    for now, then in zip([*laid_out, strided_grad], [*before, grad], strict=True):
        assert torch.equal(now, then), "an input or the upstream gradient was changed"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expanded_inputs_and_upstream_gradient(name: str, device: str) -> None:
    given = [tensor[:1].expand_as(tensor) for tensor in arguments(name, device=device)]
    value = FUNCTIONS[name](*given)
    grad = torch.ones((), dtype=torch.float64, device=device).expand_as(value)
    expected = gradients_of(name, [tensor.contiguous() for tensor in given], grad.contiguous())
    for actual, right in zip(gradients_of(name, given, grad), expected, strict=True):
        tolerances.assert_same_float64(actual, right, "expanded")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_or_infinity_stays_in_its_sample(name: str, dtype: torch.dtype, bad: float, device: str) -> None:
    """Of any argument; the eigen-decomposition of a batch would refuse it as a whole."""
    for which in range(len(arguments(name))):
        given = arguments(name, dtype, device=device)
        grad = torch.randn_like(FUNCTIONS[name](*given))
        clean = gradients_of(name, given, grad)
        given[which][1].view(-1)[1] = bad
        for i, (ours, undisturbed) in enumerate(zip(gradients_of(name, given, grad), clean, strict=True)):
            if name != "cross_covariance_pool" or i in (0, 2 - which):  # bilinear: no gradient depends on its own
                assert ours[1].isnan().any(), "the bad value was hidden"
            assert_untouched(ours[::2], undisturbed[::2])
            if name in OPERATIONS:
                assert ours[1].isnan().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_in_the_upstream_gradient_stays_in_its_sample(name: str, device: str) -> None:
    given = arguments(name, device=device)
    grad = torch.randn_like(FUNCTIONS[name](*given))
    clean = gradients_of(name, given, grad)
    grad[1].view(-1)[1] = float("nan")
    for ours, undisturbed in zip(gradients_of(name, given, grad)[1:], clean[1:], strict=True):
        assert ours[1].isnan().any()
        assert_untouched(ours[::2], undisturbed[::2])


@pytest.mark.parametrize("name", OPERATIONS)
def test_nan_in_second_order_stays_in_its_sample(name: str, device: str) -> None:
    def penalty_gradient(cov: Tensor) -> Tensor:
        leaf = cov.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((FUNCTIONS[name](leaf) ** 2).sum(), leaf, create_graph=True)
        return torch.autograd.grad((gradient**2).sum(), leaf)[0]

    (cov,) = arguments(name, device=device)
    clean = penalty_gradient(cov)
    cov[1, 2, 2] = float("nan")
    ours = penalty_gradient(cov)
    assert clean.isfinite().all()
    assert ours[1].isnan().all()
    assert_untouched(ours[::2], clean[::2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_batch_and_dtypes(name: str, dtype: torch.dtype, device: str) -> None:
    for b in (0, 2):
        given = arguments(name, dtype, b, device)
        value, *gradients = gradients_of(name, given)
        assert value.shape[0] == b
        assert value.dtype == dtype
        assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in given]
        assert {gradient.dtype for gradient in gradients} == {dtype}


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ["elementwise_power", "cross_covariance_pool", "singular_value_power"])
def test_half_precision_is_computed_in_float32_and_rounded_once(name: str, dtype: torch.dtype) -> None:
    given = arguments(name, dtype)
    expected = getattr(reference, name)(*(tensor.float() for tensor in given)).to(dtype)
    assert torch.equal(FUNCTIONS[name](*given), expected)


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "backward_inside"), [*((name, False) for name in FUNCTIONS), *((name, True) for name in OPERATIONS)]
)
def test_autocast_changes_nothing(
    name: str, backward_inside: bool, dtype: torch.dtype, autocast_dtype: torch.dtype, device: str
) -> None:
    """The operators may have their backward pass inside the block too; the other functions are plain PyTorch."""
    given = arguments(name, dtype, device=device)
    grad = torch.randn_like(FUNCTIONS[name](*given))
    plain = gradients_of(name, given, grad)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    with torch.autocast(device, dtype=autocast_dtype):
        value = FUNCTIONS[name](*leaves)
        if backward_inside:
            gradients = torch.autograd.grad(value, leaves, grad)
    if not backward_inside:
        gradients = torch.autograd.grad(value, leaves, grad)
    for ours, expected in zip([value, *gradients], plain, strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, expected)


@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_two_runs_are_bitwise_equal(name: str, device: str) -> None:
    given = arguments(name, torch.float32, 9, device)
    grad = torch.randn_like(FUNCTIONS[name](*given))
    for first, second in zip(*(gradients_of(name, given, grad) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_the_symmetric_part_counts_and_the_gradient_is_symmetric(name: str, device: str) -> None:
    (cov,) = arguments(name, device=device)
    skew = torch.randn_like(cov).triu(1)
    grad = torch.randn_like(cov)
    plain = gradients_of(name, [cov], grad)
    for ours, expected in zip(gradients_of(name, [cov + skew - skew.mT], grad), plain, strict=True):
        tolerances.assert_same_float64(ours, expected.cpu(), "with a skew part")
    tolerances.assert_same_float64(plain[1], plain[1].mT.cpu(), "gradient")


@pytest.mark.parametrize("name", OPERATIONS)
def test_reference_backend_is_the_reference_and_others_refuse(name: str) -> None:
    (cov,) = arguments(name)
    assert torch.equal(FUNCTIONS[name](cov, backend="reference"), getattr(reference, name)(cov))
    assert torch.equal(FUNCTIONS[name](cov, backend="torch"), FUNCTIONS[name](cov))
    for backend in ("triton", "cuda"):
        reason = backends.BACKENDS[backend].why_not(name, cov)
        assert name in reason
        with pytest.raises(RuntimeError, match=re.escape(reason)):
            FUNCTIONS[name](cov, backend=backend)


COV = torch.eye(4).expand(2, 4, 4)


@pytest.mark.parametrize(
    ("function", "option"),
    [
        (partial(matrix_power, COV), "alpha"),
        (partial(matrix_log, COV), "eps"),
        (partial(newton_schulz_inverse_sqrt, COV), "eps"),
        (partial(singular_value_power, COV, torch.ones(4)), "alpha"),
    ],
)
def test_numbers_out_of_range(function: Callable[..., Tensor], option: str) -> None:
    for wrong in (None, "0.5", True, torch.tensor(0.5), [0.5]):
        with refuses(TypeError, option, "number", repr(wrong)):
            function(**{option: wrong})
    for wrong in (-0.5, float("nan"), float("inf"), float("-inf")):
        with refuses(ValueError, option, str(wrong), "0"):
            function(**{option: wrong})
    if not (option == "eps" and function.func is newton_schulz_inverse_sqrt):
        with refuses(ValueError, option, "above 0", "got 0"):
            function(**{option: 0})
    if function.func is singular_value_power:
        with refuses(ValueError, option, "at most 1", "1.5"):
            function(alpha=1.5)


def test_operators_called_directly_refuse_what_they_cannot_mean() -> None:
    ops = torch.ops.gcp_kernels
    cov = COV.contiguous()
    with refuses(ValueError, "alpha", "above 0", "-1.0"):
        ops.matrix_power(cov, -1.0, "auto")
    with refuses(ValueError, "eps", "above 0", "0.0"):
        ops.matrix_log(cov, 0.0, "auto")
    with refuses(ValueError, "eps", "at least 0", "-1.0"):
        ops.newton_schulz_inverse_sqrt(cov, 5, -1.0, "default", "auto")
    with refuses(ValueError, "n_iter", "at least 1", "0"):
        ops.newton_schulz_inverse_sqrt(cov, 0, 0.1, "default", "auto")
    root, eigenvalues, eigenvectors = ops.matrix_power(cov, 0.5, "auto")
    with refuses(ValueError, "grad", "(4, 4)"):
        ops.matrix_power_backward(root[0], cov, eigenvalues, eigenvectors, 0.5, "auto")
    with refuses(ValueError, "eigenvalues", "(1, 4)"):
        ops.matrix_power_backward(root, cov, eigenvalues[:1], eigenvectors, 0.5, "auto")
    with refuses(ValueError, "eigenvectors", "(2, 4, 3)"):
        ops.matrix_log_backward(root, cov, eigenvalues, eigenvectors[..., :3], 0.5, "auto")
    root, trace = ops.newton_schulz_inverse_sqrt(cov, 5, 0.1, "default", "auto")
    with refuses(ValueError, "trace", "(1,)"):
        ops.newton_schulz_inverse_sqrt_backward(root, cov, trace[:1], 5, 0.1, "default", "auto")


def test_shapes_of_cross_covariance_and_its_normalisation() -> None:
    tokens = torch.ones(2, 6, 4)
    for shape in [(), (6,), (6, 4), (2, 0, 4), (2, 6, 0), (1, 1, 2, 6, 4)]:
        with refuses(ValueError, "q", str(shape), "(B, N, w)"):
            cross_covariance_pool(torch.ones(shape), tokens)
        with refuses(ValueError, "k", str(shape), "(B, N, w)"):
            cross_covariance_pool(tokens, torch.ones(shape))
    for shape in [(3, 6, 4), (2, 5, 4), (2, 1, 6, 4)]:
        with refuses(ValueError, "(2, 6, 4)", str(shape)):
            cross_covariance_pool(tokens, torch.ones(shape))
    with refuses(TypeError, "dtype", "float32", "float64"):
        cross_covariance_pool(tokens, tokens.double())
    with refuses(ValueError, "device", "meta"):
        cross_covariance_pool(tokens, tokens.to("meta"))

    for shape in [(), (4,), (2, 0, 4), (2, 4, 0)]:
        with refuses(ValueError, "m", str(shape)):
            singular_value_power(torch.ones(shape), torch.ones(4))
    m = torch.ones(2, 3, 4, 5)
    for shape in [(), (1,), (4,), (2, 5), (3, 3, 5), (1, 2, 3, 5)]:
        with refuses(ValueError, "start", "(2, 3, 5)", str(shape)):
            singular_value_power(m, torch.ones(shape))
    with refuses(ValueError, "device", "meta"):
        singular_value_power(m, torch.ones(5, device="meta"))
    with refuses(ValueError, "(..., D)"):
        elementwise_power(torch.tensor(1.0))
