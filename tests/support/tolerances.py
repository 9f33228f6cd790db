"""All tolerances, each with its reason. Errors are relative Frobenius norms per sample, the worst of a batch.

A result is compared with the exact value (the float64 oracle, of the inputs as rounded to their dtype) and may err by

    RATIO x (error of the unfused computation at the same precision)
        + FLOOR x (unit round-off of the sums) + one unit round-off of the output

The unfused computation is gcp_kernels.reference with plain autograd, statistics and sums in float32 (float64 for
float64), rounded to the output dtype at the end; at precision "fast", with the operands of every matrix product
rounded to the 10-bit mantissa that TF32 and float16 share.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gcp_kernels.precision import PROMISED_ERRORS

# Two orders of the same rounded operations err differently on one input. Between the torch backend on a CPU and the
# reference the worst of 1,900 comparisons needed 1.25 above the floor; the rest of RATIO is for other orders of
# summation (tiles, tensor cores). A mistake in a formula errs by 1e-2 and more, a bit lost by a factor of two each.
RATIO = 3.0

# The unfused computation can be exact by luck (C = 1, M = 2), and a handful of roundings remain: the mean, the trace,
# its root, two scalings and the sum. Two units of them are always there, six cover the worst of those 1,900.
FLOOR = 6.0

# What the documentation promises of each precision, forward and backward, for any spectrum in inputs.py, before the
# result is rounded to its dtype. Of gradients it holds for a random upstream gradient: one that almost cancels (all
# ones against a rank-one covariance) loses a digit in any implementation, the reference in float32 included.
PROMISE = PROMISED_ERRORS

# Between two float64 computations of the same value, each with errors of 1e-15 or so that second derivatives and
# 1.5^N growth of Z amplify; one of the operands in float32 would show as 1e-7.
FLOAT64_AGREEMENT = 1e-11

# DropCov compares its probability p with random numbers, so that this much changes one mask of a channel in 100,000. p
# is 10 / log2 C times a mean of cosines, each of which errs by a few float32 roundings of the sums that it is made of.
PROBABILITY = 1e-5

# Published value of ||Y_5 - sqrt|| / ||sqrt|| for ReLU(randn), C = 256, 14x14, and its spread over seeds.
FIVE_ITERATIONS_FROM_ROOT = (0.42, 0.01)

# Known answers of gcp_kernels.analysis in low precision, in units of round-off: a point of the walk, the gradient
# there, the difference of two and a norm are each rounded once or twice. A wrong formula is off by a factor.
ANALYSIS_ROUNDINGS = 10.0

# What tests ask of power iteration. The residual bounds how far an eigenvalue is; the Rayleigh quotient is nearer.
POWER_ITERATION = 1e-6


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Find the worst relative Frobenius error of a sample; infinite for NaN, and where zeros are due and not given."""
    if actual.shape[0] == 0:
        return 0.0
    actual, exact = actual.detach().cpu().double().flatten(1), exact.double().flatten(1)
    # Norms of scaled values: squares of 1e-100 would vanish. float64 keeps the scale itself.
    scale = exact.abs().amax(1)
    distance = (actual - exact).abs()
    error = (distance / scale[:, None]).norm(dim=1) / (exact / scale[:, None]).norm(dim=1)
    zero_due = scale == 0
    missed_zero = (actual != 0).any(1)
    error = torch.where(zero_due, torch.where(missed_zero, float("inf"), 0.0), error)
    return error.nan_to_num(nan=float("inf")).max().item()


def assert_as_accurate(actual: Tensor, unfused: Tensor, exact: Tensor, what: str) -> None:
    """Check that ``actual`` errs by no more than the module docstring allows for the unfused computation's error."""
    error, baseline = relative_error(actual, exact), relative_error(unfused, exact)
    floor = FLOOR * unit_roundoff(accumulation_dtype(actual.dtype)) + unit_roundoff(actual.dtype)
    bound = RATIO * baseline + floor
    assert error <= bound, f"{what}: error {error:.2e} > {RATIO} x unfused {baseline:.2e} + floor {floor:.2e}"


def assert_promise_kept(actual: Tensor, exact: Tensor, precision: str, what: str) -> None:
    """Check that ``actual`` errs by no more than is promised of ``precision``, and the rounding to its own dtype."""
    error = relative_error(actual, exact)
    bound = PROMISE[precision] + unit_roundoff(actual.dtype)
    assert error <= bound, f"{what}: error {error:.2e} > {bound:.2e}, promised of precision={precision!r}"


def assert_rounded(actual: Tensor, exact: Tensor, what: str) -> None:
    """Check ``actual`` against the promise of "fast" in half precision; subnormal elements have their own spacing."""
    spacing = torch.finfo(actual.dtype).smallest_normal * torch.finfo(actual.dtype).eps
    distance = (actual.double() - exact).flatten(1).norm(dim=1)
    norm = exact.flatten(1).norm(dim=1)
    bound = (PROMISE["fast"] + unit_roundoff(actual.dtype)) * norm + spacing / 2 * exact[0].numel() ** 0.5
    assert (distance <= bound).all(), f"{what}: error {(distance / norm).max():.2e}"


def assert_same_float64(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.dtype == torch.float64
    error = relative_error(actual.reshape(1, -1), expected.detach().cpu().reshape(1, -1))
    assert error <= FLOAT64_AGREEMENT, f"{what}: differs by {error:.2e} from the expected float64 value"


class _RoundedProducts(TorchDispatchMode):
    """Rounds float32 operands of matrix products to the 10-bit mantissa of TF32, to nearest."""

    PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.PRODUCTS:
            args = tuple(self._rounded(arg) for arg in args)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _rounded(operand: Tensor) -> Tensor:
        if operand.dtype != torch.float32:
            return operand
        return ((operand.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def unfused_arithmetic(dtype: torch.dtype, precision: str | None = None) -> Iterator[None]:
    """Make a context with the unfused computation's products at ``precision``, or at the default one of ``dtype``."""
    half = dtype in (torch.float16, torch.bfloat16)
    if dtype != torch.float64 and (precision == "fast" or (half and precision is None)):
        with _RoundedProducts():
            yield
    else:
        yield


def unfused(
    function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, precision: str | None = None
) -> tuple[Tensor, Tensor]:
    """Compute value and gradient of a function of the reference, unfused, on the CPU, rounded to x.dtype."""
    leaf = x.detach().cpu().to(accumulation_dtype(x.dtype)).requires_grad_()
    with unfused_arithmetic(x.dtype, precision):
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value, leaf, grad.cpu().to(value.dtype))
    return value.detach().to(x.dtype), gradient.to(x.dtype)
