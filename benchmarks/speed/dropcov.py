"""``python -m benchmarks dropcov``: DropCov in training against its definition written out; verifies, then times."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional

import gcp_kernels
from gcp_kernels import reference
from gcp_kernels.commands.argument_types import device_argument
from gcp_kernels.commands.relative_error import ERROR_LIMIT, relative_error
from gcp_kernels.ops.dropcov import channel_weight, drop_probability

from .. import timing
from ..cases import Case
from .run import environment

ROUNDS = 15
CASES = (Case(16, 256, 14, 14), Case(64, 256, 7, 7), Case(8, 256, 28, 28), Case(16, 128, 7, 7), Case(4, 64, 7, 7))
# Small enough for a test; its figures say nothing about speed.
QUICK = Case(2, 64, 5, 5)
# The mask is drawn by comparing p with random numbers, so a smaller difference than this changes one mask in 100,000.
PROBABILITY_LIMIT = 1e-5

# Features (B, C, *spatial), gate weight, and a mask (B, C) or None to draw one: the pooled vectors.
Pool = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Triangle = Callable[[Tensor], Tensor]


def written_out(triangle: Triangle, x: Tensor, gate_weight: Tensor, mask: Tensor | None) -> Tensor:
    """Compute DropCov as published and by its definition: gated features, two covariances, p read to the host."""
    b, c, *spatial = x.shape
    weight = gate(x.flatten(2), gate_weight)
    x = x + x * weight.view(b, c, *(1 for _ in spatial))
    p = probability(x.flatten(2), weight)
    if mask is None:
        x = functional.dropout2d(x.flatten(2)[..., None], p)
    else:
        x = x.flatten(2) * (mask[..., None].to(x.dtype) / (1 - p) if p < 1 else 0)
    return triangle(covariance(x.flatten(2)))


def gate(x: Tensor, gate_weight: Tensor) -> Tensor:
    convolved = functional.conv1d(x.mean(-1)[:, None], gate_weight, padding=gate_weight.shape[-1] // 2)
    return convolved[:, 0].softmax(-1)


@torch.no_grad()
def probability(gated: Tensor, weight: Tensor) -> float:
    r = functional.cosine_similarity(weight, covariance(gated).sum(-1), dim=-1).mean()
    return min(max(1 - 10 / math.log2(gated.shape[1]) * r.item(), 0.0), 1.0)


def covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred @ centred.mT / x.shape[-1]


def selected_triangle(cov: Tensor) -> Tensor:
    """Read the upper triangle in the fastest way of torch, with an index map that is made once."""
    return cov.flatten(1).index_select(1, _positions(cov.shape[-1], cov.device))


@lru_cache
def _positions(c: int, device: torch.device) -> Tensor:
    rows, columns = torch.triu_indices(c, c, device=device)
    return rows * c + columns


def ours(x: Tensor, gate_weight: Tensor, mask: Tensor | None) -> Tensor:
    return gcp_kernels.dropcov(x, gate_weight, training=True, mask=mask)


def scaled_matrix(x: Tensor, gate_weight: Tensor, mask: Tensor | None) -> Tensor:
    """Compute what the package might do instead: one full covariance, which also gives p, scaled element by element."""
    features = x.flatten(2)
    cov = gcp_kernels.covariance_pool(features)
    weight = channel_weight(features, gate_weight)
    with torch.no_grad():
        row_sums = (1 + weight) * (cov @ (1 + weight)[..., None])[..., 0]
        r = functional.cosine_similarity(weight, row_sums, dim=-1).mean()
        p = (1 - 10 / math.log2(x.shape[1]) * r).clamp(0, 1)
        kept = (torch.rand_like(weight) >= p if mask is None else mask) / (1 - p)
    scale = kept * (1 + weight)
    return gcp_kernels.triu_vec(cov * scale[:, :, None] * scale[:, None, :])


OURS = "dropcov"
POOLS: dict[str, Pool] = {
    OURS: ours,
    "scaled matrix": scaled_matrix,
    "written out": partial(written_out, reference.triu_vec),
    "quick triangle": partial(written_out, selected_triangle),
}


@dataclass(frozen=True)
class DropCovInputs:
    """Leaves, the upstream gradient (B, C(C+1)/2), and a mask for the verification."""

    features: Tensor
    gate_weight: Tensor
    upstream: Tensor
    mask: Tensor


def make_inputs(case: Case, device: torch.device) -> DropCovInputs:
    """Draw the same numbers on every machine; channels vary in strength so much that p is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(case.channels)
    b, c = case.batch, case.channels
    features = torch.randn(b, c, case.height, case.width, generator=generator).relu_()
    features *= torch.logspace(0, -1.5, c)[:, None, None]
    gate_weight = torch.randn(1, 1, 3, generator=generator)
    # Not centred: the gate's gradient is one sum over all of it, and would be what rounding leaves of a sum near zero.
    upstream = torch.rand(b, c * (c + 1) // 2, generator=generator)
    mask = torch.rand(b, c, generator=generator) < 0.6
    leaves = (tensor.to(device).requires_grad_() for tensor in (features, gate_weight))
    return DropCovInputs(*leaves, upstream.to(device), mask.to(device))


def step(pool: Pool, inputs: DropCovInputs, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Run a forward and a backward pass: pooled vectors, gradients of the features and of the gate weight."""
    pooled = pool(inputs.features, inputs.gate_weight, mask)
    return pooled.detach(), *torch.autograd.grad(pooled, (inputs.features, inputs.gate_weight), inputs.upstream)


def verify(pool: Pool, inputs: DropCovInputs) -> tuple[float, ...]:
    """Measure the relative errors of a :func:`step` with the mask of the inputs, against the reference in float64."""
    exact_inputs = DropCovInputs(
        *(leaf.detach().double().requires_grad_() for leaf in (inputs.features, inputs.gate_weight)),
        inputs.upstream.double(),
        inputs.mask,
    )

    def exact(x: Tensor, gate_weight: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        return reference.triu_vec(reference.dropcov(x.flatten(2), gate_weight, mask))

    found, truth = step(pool, inputs, inputs.mask), step(exact, exact_inputs, inputs.mask)
    return tuple(relative_error(result, true) for result, true in zip(found, truth, strict=True))


def probability_error(inputs: DropCovInputs) -> tuple[float, float]:
    """Find p of the package, and its distance from p of the reference in float64."""
    x, gate_weight = inputs.features.detach().flatten(2), inputs.gate_weight.detach()
    p = drop_probability(x, channel_weight(x, gate_weight)).item()
    return p, abs(p - reference.drop_probability(x.double(), gate_weight.double()).item())


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify and time; 0 when every result was right, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks dropcov", description="Speed of DropCov on this machine, training, float32."
    )
    parser.add_argument("--device", type=device_argument, default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds of timing ({ROUNDS})")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU (as torch has it)")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, seconds: does it work at all?")
    args = parser.parse_args(arguments)
    for name in ("rounds", "threads"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    print("\n".join(f"{name:12} {value}" for name, value in environment(args.device).items()))
    print(f"\nforward + backward, {args.rounds} interleaved rounds; ratio: time / ours, median (quartiles)")
    right = [measure(case, args.device, args.rounds) for case in ((QUICK,) if args.quick else CASES)]
    return 0 if all(right) else 1


def measure(case: Case, device: torch.device, rounds: int) -> bool:
    """Verify, then time what is right, and print; whether everything was right."""
    inputs = make_inputs(case, device)
    p, distance = probability_error(inputs)
    print(f"\n  {case}, p = {p:.3f}, off by {distance:.0e}" + (" FAILING" if distance > PROBABILITY_LIMIT else ""))
    errors = {name: verify(pool, inputs) for name, pool in POOLS.items()}
    right = {name: max(found) <= ERROR_LIMIT for name, found in errors.items()}
    clocks = {
        name: partial(timing.seconds, partial(step, pool, inputs, None), device)
        for name, pool in POOLS.items()
        if right[name]
    }
    times = timing.interleaved(clocks, timing.Budget.on(device, rounds))
    for name, found in errors.items():
        shown = " / ".join(f"{error:.0e}" for error in found)
        if not right[name]:
            print(f"    {name:16} not timed   failing: error {shown}, limit {ERROR_LIMIT:.0e}")
            continue
        ratio = "ours is not timed"
        if OURS in times:
            spread = timing.ratios(times[name], times[OURS])
            ratio = f"x{spread.median:.2f} ({spread.low:.2f}..{spread.high:.2f})"
        print(f"    {name:16} {1e3 * timing.Spread.of(times[name]).median:9.2f} ms   {ratio:22} error {shown}")
    return all(right.values()) and distance <= PROBABILITY_LIMIT
