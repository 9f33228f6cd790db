"""``python -m benchmarks end-to-end``: a training step of a ResNet-18 with each pooling, on synthetic images.

The networks differ in what comes after the last residual block only: average pooling; the reduction of published
networks to 256 channels, then the published operations; the same reduction, then ``gcp_kernels``. The stride of the
last stage stays, so that all three do the same work up to there. Needs torchvision; :func:`measure` takes any network
with ``avgpool`` and ``fc``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from gcp_kernels.commands.argument_types import device_argument, integer_from, new_folder
from gcp_kernels.nn import GCP
from gcp_kernels.ops import backends
from gcp_kernels.ops.shapes import triangle_size

from ..cases import DTYPES, Case
from ..environment import environment, machine_state
from ..peers.published import published_pool
from ..rows import JSON_NAME, Row, Writer
from ..timing import Budget, Spread, interleaved, ratios, seconds
from . import memory
from .measure import failure
from .table import head, size

DIM = 256
CLASSES = 1000
N_ITER = 5
ROUNDS = 10
# Steps are long: no turn of several is needed, and none is left out.
TURN_SECONDS = 0.001
PROVIDER_SECONDS = 1e6

Factory = Callable[[], nn.Module]


class PublishedPool(nn.Module):
    """The reduction of :class:`gcp_kernels.nn.GCP` and the published operations."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        reduction = GCP(in_channels, dim).conv_dr_block
        assert reduction is not None
        self.conv_dr_block = reduction

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The published operations do not take half precision features, which autocast makes of them.
        with torch.autocast(x.device.type, enabled=False):
            return published_pool(self.conv_dr_block(x.float()), N_ITER)


def poolings(in_channels: int, dim: int) -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """Name -> (what makes the pooling, elements of a pooled sample)."""
    return {
        "gcp_kernels": (lambda: GCP(in_channels, dim, N_ITER), triangle_size(dim)),
        "published": (lambda: PublishedPool(in_channels, dim), triangle_size(dim)),
        "average": (lambda: nn.AdaptiveAvgPool2d(1), in_channels),
    }


def resnet18() -> nn.Module:
    """Build torchvision's ResNet-18, untrained.

    Raises:
        ImportError: torchvision is not installed.
    """
    return importlib.import_module("torchvision").models.resnet18(weights=None)


def why_not_torchvision() -> str | None:
    """Say why torchvision cannot be used; with a torch of another build its import raises a RuntimeError."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return f"torchvision cannot be imported: {error}"
    return None


def network(name: str, factory: Factory, dim: int = DIM) -> nn.Module:
    """Build a network of ``factory``, which has ``avgpool`` and ``fc``, with the pooling of that name and a classifier.

    The backbone has the same weights for every pooling: drawn first, from one seed.
    """
    torch.manual_seed(0)
    model = factory()
    pool, features = poolings(model.fc.in_features, dim)[name]
    model.avgpool, model.fc = pool(), nn.Linear(features, model.fc.out_features)
    return model


@dataclass(frozen=True)
class Batch:
    """Normal images (B, 3, S, S) and labels, on the device."""

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, size: int, side: int, classes: int, device: torch.device) -> Batch:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, 3, side, side, generator=generator).to(device)
        return cls(images, torch.randint(classes, (size,), generator=generator).to(device))


def training_step(model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    """Train a step, forward, backward and update, and give the loss. Autocast is on where ``dtype`` is not float32."""
    half = dtype != torch.float32
    with torch.autocast(batch.images.device.type, dtype) if half else nullcontext():
        loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def measure(batch: Batch, dtype: str, factory: Factory, rounds: int, dim: int = DIM) -> list[Row]:
    """Make a row of kind "step" for each pooling: milliseconds of a training step, the ratio to ours, peak memory."""
    device = batch.images.device
    rows: dict[str, Row] = {}
    clocks = {}
    for name in poolings(1, dim):
        case = Case(len(batch.images), batch.images.shape[1], *batch.images.shape[2:], n_iter=N_ITER, dtype=dtype)
        rows[name] = Row.of("step", "end to end", case, name, "mean" if name == "average" else "iterates")
        try:
            model = network(name, factory, dim).to(device).train()
            optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
            step = partial(training_step, model, optimiser, batch, DTYPES[dtype])
            rows[name] = with_peak(rows[name], step, device)
            if rows[name].problem is None:
                clocks[name] = partial(seconds, step, device)
        except Exception as error:  # such as too little memory: the others can still be measured
            rows[name] = replace(rows[name], problem=failure(error))
    times = interleaved(clocks, Budget(rounds, TURN_SECONDS, PROVIDER_SECONDS))
    state = machine_state(device)
    for name, found in times.items():
        spread = Spread.of([1e3 * value for value in found])
        row = replace(
            rows[name], milliseconds=spread.median, low=spread.low, high=spread.high, rounds=len(found),
            method="CUDA events" if device.type == "cuda" else "wall clock", **state,
        )  # fmt: skip
        if "gcp_kernels" in times:
            ratio = ratios(found, times["gcp_kernels"])
            row = replace(
                row, baseline="gcp_kernels", ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high
            )  # fmt: skip
        rows[name] = row
    return list(rows.values())


def with_peak(row: Row, step: Callable[[], torch.Tensor], device: torch.device) -> Row:
    """Add to the row the peak memory of a second step; the first allocates the state of the optimiser.

    A loss that is not finite is a problem: what takes no part in learning is not timed.
    """
    losses = [step()]
    baseline = memory.settle(device)
    losses.append(step())
    peak = memory.high_water(device) - baseline
    if not torch.stack(losses).isfinite().all():
        return replace(row, problem=f"failing: the losses of two steps are {[loss.item() for loss in losses]}")
    return replace(row, peak_bytes=peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every network could be trained, 1 otherwise, 2 without torchvision."""
    args = parse(arguments)
    if reason := why_not_torchvision():
        print(f"python -m benchmarks end-to-end: {reason}", file=sys.stderr)
        return 2
    if args.device.type == "cuda":
        torch.cuda.set_device(args.device)
    setting = environment(args.device)
    print(head({**setting, "backends that may serve": ", ".join(backends.auto_order(args.device.type))}))
    # Made first: a folder that cannot be made is no reason to lose what was measured.
    writer = None if args.output is None else Writer(args.output, setting)
    rows = measure(Batch.of(args.batch, args.image, CLASSES, args.device), args.dtype, resnet18, args.rounds)
    print(lines(rows))
    if writer is not None:
        writer.write(rows)
        writer.finish()
        print(f"\nwritten to {args.output / JSON_NAME}")
    return 1 if any(row.problem for row in rows) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks end-to-end", description="A training step of a ResNet-18 with each pooling."
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", type=device_argument, default="cuda" if cuda else "cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=integer_from(1), default=128 if cuda else 4, help="images (128; 4 on a CPU)")
    parser.add_argument("--image", type=integer_from(32), default=224, help="pixels of a side (224)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="autocast in bfloat16?")
    parser.add_argument("--rounds", type=integer_from(1), default=ROUNDS, help=f"interleaved steps ({ROUNDS})")
    parser.add_argument("--output", type=new_folder, metavar="DIR", help="new folder for rows as JSON lines and CSV")
    return parser.parse_args(arguments)


def lines(rows: Sequence[Row]) -> str:
    """Write the table of one run."""
    first = rows[0]
    text = [f"\n  training step, {first.batch} images of {first.height} x {first.width}, {first.dtype}"]
    for row in rows:
        if row.milliseconds is None:
            text.append(f"    {row.provider:14} not timed: {row.problem}")
            continue
        ratio = "" if row.ratio is None else f"x{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})"
        text.append(f"    {row.provider:14} {row.milliseconds:9.2f} ms  {ratio:26} peak {size(row.peak_bytes)}")
    return "\n".join(text)
