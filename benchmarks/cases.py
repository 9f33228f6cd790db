"""What is measured: a shape, its arithmetic and a direction, and the inputs that go with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from gcp_kernels.ops.shapes import triangle_size
from gcp_kernels.precision import PRECISIONS

Pool = Callable[[torch.Tensor], torch.Tensor]

# "inference" records no graph; "forward" records one; "backward" runs one again and again; "both" is a training step.
DIRECTIONS = ("inference", "forward", "backward", "both")
DTYPES = {
    name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Features (batch, channels, height, width) of a dtype, N Newton-Schulz iterations, and what is done with them.

    ``precision`` is that of :func:`gcp_kernels.fused_gcp`. Implementations without such an option run with torch's
    TF32 products allowed for "fast" and forbidden for "high".

    Raises:
        ValueError: a count below 1, or a dtype, precision or direction that there is not.
    """

    batch: int
    channels: int
    height: int
    width: int
    n_iter: int = 5
    dtype: str = "float32"
    precision: str = "high"
    direction: str = "both"

    def __post_init__(self) -> None:
        for name in ("batch", "channels", "height", "width", "n_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, choices in (("dtype", DTYPES), ("precision", PRECISIONS), ("direction", DIRECTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.height}x{self.width}"

    @property
    def positions(self) -> int:
        """M."""
        return self.height * self.width

    @property
    def label(self) -> str:
        """All of the case in a line, such as "8x256x14x14 N=5 float32 high both"."""
        return f"{self} N={self.n_iter} {self.dtype} {self.precision} {self.direction}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read what ``str`` or ``label`` has written; what the text leaves out is the default."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)(?: N=(\d+) (\w+) (\w+) (\w+))?", text)
        if match is None:
            raise ValueError(f"a case is written BxCxHxW, for instance 8x256x14x14; got {text!r}")
        case = cls(*map(int, match.groups()[:4]))
        if match[5] is None:
            return case
        return replace(case, n_iter=int(match[5]), dtype=match[6], precision=match[7], direction=match[8])


@dataclass(frozen=True)
class Inputs:
    """Rectified normal features, a leaf that requires a gradient, and an upstream gradient (B, C(C+1)/2)."""

    features: torch.Tensor
    upstream: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.features.nbytes + self.upstream.nbytes

    def copy(self) -> Inputs:
        """Copy the inputs into other memory."""
        return Inputs(self.features.detach().clone().requires_grad_(), self.upstream.clone())


def make_inputs(case: Case, device: torch.device) -> Inputs:
    """Draw the same numbers on every machine and device: on the CPU, from a fixed seed, then rounded to the dtype."""
    generator = torch.Generator().manual_seed(case.channels)
    features = torch.randn(case.batch, case.channels, case.height, case.width, generator=generator).relu_()
    upstream = torch.randn(case.batch, triangle_size(case.channels), generator=generator)
    dtype = DTYPES[case.dtype]
    return Inputs(features.to(device, dtype).requires_grad_(), upstream.to(device, dtype))
