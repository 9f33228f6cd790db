"""``python -m benchmarks end-to-end``: a training step of a network with each pooling, on synthetic images.

The networks differ in what comes after the last convolution of the backbone only: average pooling; the reduction of
published networks to 256 channels, then the published operations; the same reduction, then ``gcp_kernels``. Whether the
stride of the last stage stays is the same for all three. Needs torchvision; :func:`measure` takes any network that
pools with :class:`gcp_kernels.nn.GCP` and ends with a linear classifier.
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
from gcp_kernels.integrations import replace_pool
from gcp_kernels.nn import GCP
from gcp_kernels.nn.poolings import AveragePool
from gcp_kernels.ops import backends

from ..cases import DTYPES, Case
from ..environment import environment, machine_state
from ..peers.published import published_pool
from ..rows import JSON_NAME, Row, Writer
from ..timing import Budget, Spread, interleaved, ratios, seconds
from . import memory
from .measure import failure
from .table import head, size

# Constructors of torchvision, which networks of the papers are made of.
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
POOLINGS = ("gcp_kernels", "published", "average")
CLASSES = 1000
N_ITER = 5
ROUNDS = 10
# Steps are long: no turn of several is needed, and none is left out.
TURN_SECONDS = 0.001
PROVIDER_SECONDS = 1e6

Factory = Callable[[], nn.Module]


class PublishedPool(nn.Module):
    """The reduction of a :class:`gcp_kernels.nn.GCP`, and the published operations."""

    def __init__(self, pool: GCP) -> None:
        super().__init__()
        assert pool.conv_dr_block is not None
        self.conv_dr_block = pool.conv_dr_block
        self.n_iter = pool.n_iter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reduced = self.conv_dr_block(x)
        # The published operations do not take half precision features, which autocast makes of them.
        with torch.autocast(x.device.type, enabled=False):
            return published_pool(reduced.float(), self.n_iter)


def torchvision_network(name: str, drop_stride: bool = False) -> nn.Module:
    """Build an untrained network of torchvision with :class:`gcp_kernels.nn.GCP`.

    Args:
        name: one of :data:`NETWORKS`.
        drop_stride: without the stride of the last stage, as in published ResNets.

    Raises:
        ImportError: torchvision is not installed.
    """
    model: nn.Module = getattr(importlib.import_module("torchvision").models, name)(weights=None)
    return replace_pool(model, CLASSES, n_iter=N_ITER, keep_stride=not drop_stride)


def why_not_torchvision() -> str | None:
    """Say why torchvision cannot be used; with a torch of another build its import raises a RuntimeError."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        return f"torchvision cannot be imported: {error}"
    return None


def network(pooling: str, factory: Factory) -> nn.Module:
    """Build a network of ``factory``, which pools with :class:`gcp_kernels.nn.GCP`, with one of :data:`POOLINGS`.

    The backbone has the same weights for every pooling, drawn from one seed, and so have the poolings and classifiers
    that are alike.
    """
    torch.manual_seed(0)
    model = factory()
    ((place, pool),) = [(place, module) for place, module in model.named_modules() if isinstance(module, GCP)]
    if pooling == "published":
        model.set_submodule(place, PublishedPool(pool))
    elif pooling == "average":
        model.set_submodule(place, AveragePool(pool.in_channels))
        *_, (place, classifier) = [
            (place, module) for place, module in model.named_modules() if isinstance(module, nn.Linear)
        ]
        model.set_submodule(place, nn.Linear(pool.in_channels, classifier.out_features))
    return model


@dataclass(frozen=True)
class Batch:
    """Normal images (B, 3, S, S) and labels, on the device."""

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, size: int, side: int, classes: int, device: torch.device, channels_last: bool = False) -> Batch:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, 3, side, side, generator=generator).to(device)
        if channels_last:
            images = images.to(memory_format=torch.channels_last)
        return cls(images, torch.randint(classes, (size,), generator=generator).to(device))

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the images, which a network's weights should have too."""
        last = self.images.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if last else torch.contiguous_format


def training_step(model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    """Train a step, forward, backward and update, and give the loss. Autocast is on where ``dtype`` is not float32."""
    half = dtype != torch.float32
    with torch.autocast(batch.images.device.type, dtype) if half else nullcontext():
        loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def measure(batch: Batch, dtype: str, factory: Factory, rounds: int, group: str = "end to end") -> list[Row]:
    """Make a row of kind "step" for each pooling: milliseconds of a training step, the ratio to ours, peak memory."""
    device = batch.images.device
    rows: dict[str, Row] = {}
    clocks = {}
    for name in POOLINGS:
        case = Case(len(batch.images), batch.images.shape[1], *batch.images.shape[2:], n_iter=N_ITER, dtype=dtype)
        rows[name] = Row.of("step", group, case, name, "mean" if name == "average" else "iterates")
        try:
            model = network(name, factory).to(device, memory_format=batch.memory_format).train()
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
    batch = Batch.of(args.batch, args.image, CLASSES, args.device, args.channels_last)
    rows: list[Row] = []
    for name in args.network:
        factory = partial(torchvision_network, name, args.drop_stride)
        found = measure(batch, args.dtype, factory, args.rounds, group_of(name, args.drop_stride, args.channels_last))
        print(lines(found), flush=True)
        rows += found
        if writer is not None:
            writer.write(found)
    if writer is not None:
        writer.finish()
        print(f"\nwritten to {args.output / JSON_NAME}")
    return 1 if any(row.problem for row in rows) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks end-to-end", description="A training step of networks with each pooling."
    )
    cuda = torch.cuda.is_available()
    parser.add_argument(
        "--network",
        nargs="+",
        choices=NETWORKS,
        default=["resnet18"],
        help="of torchvision, one after another (resnet18)",
    )
    parser.add_argument(
        "--drop-stride",
        action="store_true",
        help="of the last stage, as published ResNets do: four times the positions",
    )
    parser.add_argument("--channels-last", action="store_true", help="images and weights in that memory format")
    parser.add_argument("--device", type=device_argument, default="cuda" if cuda else "cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=integer_from(1), default=128 if cuda else 4, help="images (128; 4 on a CPU)")
    parser.add_argument("--image", type=integer_from(32), default=224, help="pixels of a side (224)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="autocast in bfloat16?")
    parser.add_argument("--rounds", type=integer_from(1), default=ROUNDS, help=f"interleaved steps ({ROUNDS})")
    parser.add_argument("--output", type=new_folder, metavar="DIR", help="new folder for rows as JSON lines and CSV")
    return parser.parse_args(arguments)


def group_of(name: str, drop_stride: bool, channels_last: bool) -> str:
    """Name what the three networks have in common: what two runs have to agree in to be compared."""
    options = [*(["no last stride"] if drop_stride else []), *(["channels last"] if channels_last else [])]
    return " ".join(["end to end:", ", ".join([name, *options])])


def lines(rows: Sequence[Row]) -> str:
    """Write the table of one network."""
    first = rows[0]
    step = f"training step, {first.batch} images of {first.height} x {first.width}, {first.dtype}"
    text = [f"\n  {first.group}: {step}"]
    for row in rows:
        if row.milliseconds is None:
            text.append(f"    {row.provider:14} not timed: {row.problem}")
            continue
        ratio = "" if row.ratio is None else f"x{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})"
        text.append(f"    {row.provider:14} {row.milliseconds:9.2f} ms  {ratio:26} peak {size(row.peak_bytes)}")
    return "\n".join(text)
