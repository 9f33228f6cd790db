"""Compare every backend that can run on this machine with the float64 reference: outputs and gradients."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..ops.backends import BACKENDS
from ..ops.spectral_pool import log_pool, power_pool
from ..precision import PROMISED_ERRORS
from .lost_gpu import why_lost
from .relative_error import relative_error

# (B, C, M): even, odd, fewer positions than channels, and the ResNet case.
SHAPES = ((4, 32, 196), (3, 67, 49), (2, 128, 49), (2, 256, 196))

_TO_TRIANGLES: dict[str, Any] = {"channel_dim": 1, "output": "triu", "precision": None}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "isqrt_pool": functional.fused_gcp,
    "covariance_pool": functional.covariance_pool,
    "newton_schulz_sqrt": functional.newton_schulz_sqrt,
    "triu_vec": functional.triu_vec,
    "triu_unvec": functional.triu_unvec,
    "newton_schulz_inverse_sqrt": functional.newton_schulz_inverse_sqrt,
    "matrix_power": functional.matrix_power,
    "matrix_log": functional.matrix_log,
    "power_pool": partial(power_pool, alpha=0.5, **_TO_TRIANGLES),
    "log_pool": partial(log_pool, eps=1e-3, **_TO_TRIANGLES),
}

# Functions of eigenvalues, of given matrices and of the covariance of features.
OF_MATRICES, OF_FEATURES = ("matrix_power", "matrix_log"), ("power_pool", "log_pool")

# Functions without a "precision": triangles are copied, and eigenvalues are always computed as "high".
WITHOUT_PRECISION = ("triu_vec", "triu_unvec", *OF_MATRICES, *OF_FEATURES)


@dataclass(frozen=True)
class Arithmetic:
    """A dtype and a precision, and the relative Frobenius error against float64 that they are allowed."""

    dtype: torch.dtype
    precision: str | None
    tolerance: float

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.") + (f" {self.precision}" if self.precision else "")


# The promises of the "precision" option; half precision features are also rounded on output, 2^-11 and 2^-8.
ARITHMETIC = (
    Arithmetic(torch.float64, None, 1e-12),
    Arithmetic(torch.float32, "high", PROMISED_ERRORS["high"]),
    Arithmetic(torch.float32, "fast", PROMISED_ERRORS["fast"]),
    Arithmetic(torch.float16, None, PROMISED_ERRORS["fast"]),
    Arithmetic(torch.bfloat16, None, PROMISED_ERRORS["fast"] + 2**-8),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(args: argparse.Namespace) -> int:
    """Print a row for each backend, operation and arithmetic, with the largest error of all shapes.

    Returns:
        0 if all are right, else 1.
    """
    shapes = ", ".join(map(str, SHAPES))
    print(f"largest relative error against the float64 reference, features (B, C, M) of {shapes}\n")
    print(f"{'backend':<9}{'device':<8}{'operation':<28}{'arithmetic':<14}{'output':>9}{'gradient':>10}{'allowed':>10}")
    failures = checks = 0
    skipped = []
    for name, device, operation, arithmetic in _cases():
        row = f"{name:<9}{device:<8}{operation:<28}{arithmetic!s:<14}"
        try:
            found = _checked(name, device, operation, arithmetic)
        except Exception as error:  # whatever it is, it is the result of this row, and the next rows go on
            checks += 1
            failures += 1
            print(f"{row}  FAILED {type(error).__name__}: {error}", flush=True)
            if why_lost() is not None:
                print("this process can use the GPU no more: the rows that are left are not checked", flush=True)
                break
            continue
        if isinstance(found, str):
            skipped.append(f"not checked: {name} on {device}, {operation}: {found}")
            continue
        output, gradient = found
        right = output <= arithmetic.tolerance and gradient <= arithmetic.tolerance
        checks += 1
        failures += not right
        print(
            f"{row}{output:>9.1e}{gradient:>10.1e}{arithmetic.tolerance:>10.1e}  {'ok' if right else 'WRONG'}",
            flush=True,  # if the table is stopped, the finished rows are there
        )
    print("", *dict.fromkeys(skipped), "", f"{checks - failures} passed, {failures} failed", sep="\n")
    return 1 if failures else 0


def _checked(name: str, device: str, operation: str, arithmetic: Arithmetic) -> tuple[float, float] | str:
    """Return the largest errors of output and gradient over all shapes, or why the backend cannot run them."""
    inputs = [_input(operation, shape).to(device, arithmetic.dtype) for shape in SHAPES]
    precision = arithmetic.precision or "default"
    reasons = {reason for x in inputs if (reason := BACKENDS[name].why_not(operation, x, precision))}
    if reasons:
        return "; ".join(sorted(reasons))
    options = {} if operation in WITHOUT_PRECISION else {"precision": arithmetic.precision}
    errors = [_errors(FUNCTIONS[operation], x, backend=name, **options) for x in inputs]
    output, gradient = (max(kind, key=_nan_is_largest) for kind in zip(*errors, strict=True))
    return output, gradient


def _cases() -> Iterator[tuple[str, str, str, Arithmetic]]:
    for name in BACKENDS:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            for operation in FUNCTIONS:
                for arithmetic in ARITHMETIC:
                    yield name, device, operation, arithmetic


def _input(operation: str, shape: tuple[int, int, int]) -> Tensor:
    """Draw rectified random features, or compute what the operation takes of them."""
    features = torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    if operation in ("isqrt_pool", "covariance_pool"):
        return features
    if operation in (*OF_MATRICES, *OF_FEATURES):
        # The root of an eigenvalue near zero has an almost infinite derivative, which would show how the input was
        # rounded. Noise at three times as many positions as channels, or half as many, has no such eigenvalue.
        b, c, _ = shape
        m = 3 * c if operation in OF_MATRICES else c // 2
        features = torch.randn(b, c, m, generator=torch.Generator().manual_seed(2)).double()
    if operation in OF_FEATURES:
        return features
    return functional.covariance_pool(
        features, backend="reference", output="triu" if operation == "triu_unvec" else "full"
    )


def _errors(function: Callable[..., Tensor], x: Tensor, **options: Any) -> tuple[float, float]:
    """Return the relative Frobenius errors of the function's value and of its gradient."""
    results = _value_and_gradient(function, x, **options)
    expected = _value_and_gradient(function, x.double(), backend="reference")
    output, gradient = (relative_error(actual, right) for actual, right in zip(results, expected, strict=True))
    return output, gradient


def _value_and_gradient(function: Callable[..., Tensor], x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Compute the function's value, and its gradient for a fixed random upstream gradient."""
    x = x.detach().requires_grad_()
    value = function(x, **options)
    upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # Rounded to bfloat16 first, so that every dtype gets exactly the same gradient.
    upstream = upstream.bfloat16().to(value.device, value.dtype)
    return value.detach(), torch.autograd.grad(value, x, upstream)[0]


def _nan_is_largest(error: float) -> float:
    return error if error == error else float("inf")
