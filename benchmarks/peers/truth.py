"""What each provider has to reproduce before it is timed: float64 results on the very inputs, and how near it must be.

The truths are the N Newton-Schulz iterations that published networks compute, the exact root, a Pade approximant of the
root, and the mean. A provider is held to the one that it declares, for five iterations are not the exact root.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gcp_kernels import reference
from gcp_kernels.precision import PROMISED_ERRORS

from ..cases import DTYPES, Case, Inputs, Pool
from .exact_root import exact_root_pool
from .pade_lyapunov import pade_lyapunov_truth

# Twice what the package promises is wrong, not rounded.
PROMISE = PROMISED_ERRORS
# float64 against float64: some hundreds of roundings of 1e-16, amplified by 1.5^N; an operand in float32 shows as 1e-7.
FLOAT64_LIMIT = 1e-11
# Samples of which the truth is computed at a time, so that its iterates in float64 fit in memory.
CHUNK = 32

Results = tuple[torch.Tensor, torch.Tensor | None]


def reference_pool(n_iter: int) -> Pool:
    """Wrap the package's reference as a pool (B, C, H, W) -> (B, C(C+1)/2), in the dtype of its input."""
    return lambda features: reference.triu_vec(reference.isqrt_pool(features.flatten(2), n_iter))


def mean_pool(features: torch.Tensor) -> torch.Tensor:
    """Average pooling: (B, C, H, W) -> (B, C)."""
    return features.mean((2, 3))


TRUTHS: dict[str, Callable[[int], Pool]] = {
    "iterates": reference_pool,
    "root": lambda n_iter: exact_root_pool,
    "pade": lambda n_iter: pade_lyapunov_truth,
    "mean": lambda n_iter: mean_pool,
}


@dataclass(frozen=True)
class Errors:
    """Relative Frobenius errors of the worst sample against float64; infinite where a result is NaN.

    ``gradient`` is ``None`` where no gradient is asked for.
    """

    output: float
    gradient: float | None

    def within(self, limit: float) -> bool:
        return self.output <= limit and (self.gradient is None or self.gradient <= limit)

    def __str__(self) -> str:
        gradient = "" if self.gradient is None else f" / {self.gradient:.1e}"
        return f"{self.output:.1e}{gradient}"


def error_limit(case: Case) -> float:
    """Give the relative error beyond which an implementation of the iterates is wrong: twice the promise, one rounding.

    The rounding is that of the result to half precision; float32 results carry theirs within the promise.
    """
    if case.dtype == "float64":
        return FLOAT64_LIMIT
    half = case.dtype in ("float16", "bfloat16")
    return 2 * PROMISE[case.precision] + (torch.finfo(DTYPES[case.dtype]).eps / 2 if half else 0.0)


def upstream_of(truth: str, inputs: Inputs) -> torch.Tensor:
    """Draw the upstream gradient for a pool of this truth: (B, C(C+1)/2), or (B, C) for the mean."""
    return inputs.upstream[:, : inputs.features.shape[1]] if truth == "mean" else inputs.upstream


def step(pool: Pool, features: torch.Tensor, upstream: torch.Tensor | None) -> Results:
    """Pool a batch and, with an upstream gradient, find the gradient of the features; without, no graph is recorded."""
    if upstream is None:
        with torch.no_grad():
            return pool(features), None
    pooled = pool(features)
    (gradient,) = torch.autograd.grad(pooled, features, upstream)
    return pooled.detach(), gradient


class Judge:
    """Compares results on one case's inputs with the truths, each of which is computed once, when first asked for."""

    def __init__(self, case: Case, inputs: Inputs, samples: int | None = None) -> None:
        """Compare only the first ``samples`` samples, which is exact because samples do not mix."""
        self._case = case
        self._inputs = inputs
        self._samples = inputs.features.shape[0] if samples is None else samples
        self.truth = functools.cache(self._truth)

    @property
    def wants_gradient(self) -> bool:
        return self._case.direction != "inference"

    def _truth(self, truth: str) -> Results:
        """Compute output and gradient in float64, one slice of the batch after another."""
        pool = TRUTHS[truth](self._case.n_iter)
        upstream = upstream_of(truth, self._inputs)
        chunks = []
        for start in range(0, self._samples, CHUNK):
            chunk = slice(start, min(start + CHUNK, self._samples))
            features = self._inputs.features.detach()[chunk].double().requires_grad_()
            chunks.append(step(pool, features, upstream[chunk].double() if self.wants_gradient else None))
        output = torch.cat([chunk[0] for chunk in chunks])
        gradients = [chunk[1] for chunk in chunks if chunk[1] is not None]
        return output, torch.cat(gradients) if gradients else None

    def errors(self, pool: Pool, truth: str) -> Errors:
        """Run the pool once on the inputs and compare.

        Raises:
            ValueError: a result has not the shape or dtype that it must have.
        """
        upstream = upstream_of(truth, self._inputs)
        found = step(pool, self._inputs.features, upstream if self.wants_gradient else None)
        return self.compare(found, truth)

    def compare(self, found: Results, truth: str) -> Errors:
        """Measure the errors of what a :func:`step` on the inputs gave; raise as :meth:`errors` does."""
        expected = (upstream_of(truth, self._inputs), self._inputs.features)
        worst: list[float | None] = []
        for name, result, like, true in zip(("output", "gradient"), found, expected, self.truth(truth), strict=True):
            if result is None or true is None:
                worst.append(None)
                continue
            if result.shape != like.shape or result.dtype != like.dtype:
                shapes = f"{tuple(result.shape)}, not {tuple(like.shape)}"
                raise ValueError(f"{name} is {result.dtype} {shapes} {like.dtype}")
            worst.append(worst_sample_error(result[: self._samples], true))
        output, gradient = worst
        assert output is not None
        return Errors(output, gradient)


def worst_sample_error(result: torch.Tensor, true: torch.Tensor) -> float:
    """Find the largest || result - true || / || true || of a sample; where the truth is zero, so must the result be."""
    result = result.detach().double().flatten(1)
    true = true.flatten(1)
    distance = torch.linalg.vector_norm(result - true, dim=1)
    norm = torch.linalg.vector_norm(true, dim=1)
    error = torch.where(norm == 0, torch.where(distance == 0, 0.0, torch.inf), distance / norm)
    return float(error.nan_to_num(nan=torch.inf, posinf=torch.inf).max())
