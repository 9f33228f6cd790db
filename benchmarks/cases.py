"""What is measured: shapes, their inputs, and the float64 truth that every provider must reproduce first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gcp_kernels import reference
from gcp_kernels.commands.demo_timing import ERROR_LIMIT, relative_error

Pool = Callable[[torch.Tensor], torch.Tensor]
Results = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Features (batch, channels, height, width), float32, and the number of Newton-Schulz iterations."""

    batch: int
    channels: int
    height: int
    width: int
    n_iter: int = 5

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The inverse of ``str``, at the default number of iterations."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)", text)
        if match is None:
            raise ValueError(f"a case is written BxCxHxW, for instance 8x256x14x14; got {text!r}")
        batch, channels, height, width = map(int, match.groups())
        return cls(batch, channels, height, width)


SPEED = (Case(8, 256, 14, 14), Case(16, 128, 14, 14), Case(32, 64, 7, 7))
MEMORY = Case(64, 256, 14, 14)
# Small enough for a test; its figures say nothing about speed or memory.
QUICK = Case(2, 16, 5, 5)


@dataclass(frozen=True)
class Inputs:
    """Rectified normal features, a leaf that requires a gradient, and the upstream gradient (B, C(C+1)/2)."""

    features: torch.Tensor
    upstream: torch.Tensor


@dataclass(frozen=True)
class Errors:
    """Relative Frobenius errors against float64; NaN where a result holds one."""

    output: float
    gradient: float

    @property
    def acceptable(self) -> bool:
        return self.output <= ERROR_LIMIT and self.gradient <= ERROR_LIMIT


def make_inputs(case: Case, device: torch.device) -> Inputs:
    """The same numbers on every machine and device: drawn on the CPU from a fixed seed."""
    generator = torch.Generator().manual_seed(case.channels)
    features = torch.randn(case.batch, case.channels, case.height, case.width, generator=generator).relu_()
    upstream = torch.randn(case.batch, case.channels * (case.channels + 1) // 2, generator=generator)
    return Inputs(features.to(device).requires_grad_(), upstream.to(device))


def step(pool: Pool, inputs: Inputs) -> Results:
    """One forward and backward pass: pooled vectors (B, C(C+1)/2) and the gradient of the features."""
    pooled = pool(inputs.features)
    (gradient,) = torch.autograd.grad(pooled, inputs.features, inputs.upstream)
    return pooled.detach(), gradient


def errors(found: Results, inputs: Inputs, n_iter: int, samples: int | None = None) -> Errors:
    """Compare a ``step``'s results with the reference in float64 on the same inputs.

    ``samples`` limits the comparison to the first so many, which is exact because samples do not mix. Raises
    ValueError when a result has not the shape or dtype that it must have.
    """
    expected = (inputs.upstream, inputs.features)
    for name, result, like in zip(("output", "gradient"), found, expected, strict=True):
        if result.shape != like.shape or result.dtype != like.dtype:
            shapes = f"{tuple(result.shape)}, not {tuple(like.shape)}"
            raise ValueError(f"{name} is {result.dtype} {shapes} {like.dtype}")
    features = inputs.features.detach()[:samples].double().requires_grad_()
    truth = step(reference_pool(n_iter), Inputs(features, inputs.upstream[:samples].double()))
    output, gradient = (relative_error(result[:samples], true) for result, true in zip(found, truth, strict=True))
    return Errors(output, gradient)


def reference_pool(n_iter: int) -> Pool:
    """The package's readable truth as a pool (B, C, H, W) -> (B, C(C+1)/2), in the dtype of its input."""
    return lambda features: reference.triu_vec(reference.isqrt_pool(features.flatten(2), n_iter))
