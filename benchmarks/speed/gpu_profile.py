"""Run one pass forward and backward, and the same again once all is compiled, for a profiler to look at.

ncu -s 2 -c 2 python -m benchmarks gpu-profile cuda 256 bfloat16 fast
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

import gcp_kernels
from gcp_kernels.commands.argument_types import integer_from
from gcp_kernels.precision import PRECISIONS

from ..cases import DTYPES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the passes on the current GPU; 0, or 2 where there is none."""
    args = parse(arguments)
    if not torch.cuda.is_available():
        print("python -m benchmarks gpu-profile needs a GPU that torch can use", file=sys.stderr)
        return 2
    shape = (args.samples, args.channels, args.positions)
    x = torch.randn(shape, device="cuda").relu_().to(DTYPES[args.dtype]).requires_grad_()
    for _ in range(2):
        pooled = gcp_kernels.fused_gcp(x, backend=args.backend, precision=args.precision)
        torch.autograd.grad(pooled, x, torch.ones_like(pooled))
        torch.cuda.synchronize()
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu-profile", description="Two passes for a profiler.")
    parser.add_argument("backend", choices=("cuda", "triton"))
    parser.add_argument("channels", type=integer_from(1))
    parser.add_argument("dtype", choices=tuple(DTYPES))
    parser.add_argument("precision", choices=PRECISIONS)
    parser.add_argument("--samples", type=integer_from(1), default=256)
    parser.add_argument("--positions", type=integer_from(1), default=196)
    return parser.parse_args(arguments)
