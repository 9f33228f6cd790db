"""``python -m benchmarks overhead``: time from a Python call to its launches, with a driver that does nothing.

Tensors are on the CPU. Kernels are specialised, compiled for sm_90 and looked up as on a GPU. A launch is counted
instead of made, so the times are without the driver's own time for a launch, and without the kernel's.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import math
import pstats
import statistics
import sys
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gcp_kernels
from gcp_kernels.commands.argument_types import new_file
from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.ops import backends

from .static import why_not

if TYPE_CHECKING:
    from .stub_driver import StubDriver

CAPABILITY = 90
# Short rounds, of which on a busy machine one or another is left alone.
ROUNDS = 100
CALLS = 50
# What a call with one launch may take.
LIMIT_MICROSECONDS = 30.0


@dataclass(frozen=True)
class Shape:
    """Features (B, C, M), float32, and the multiprocessors that have the backend run them in ``form``."""

    form: str
    b: int
    c: int
    m: int
    multiprocessors: int
    n_iter: int = 5


# Small batches, so that the memory of the CPU, which costs system calls where it is large, plays no part.
SHAPES = (
    Shape("on chip", 2, 16, 49, multiprocessors=2),
    Shape("persistent", 2, 256, 196, multiprocessors=2),
    Shape("phases", 2, 256, 196, multiprocessors=132),
)


@dataclass(frozen=True)
class CallCost:
    """Microseconds per call, least and median of rounds; and what one call does, which is the same on every machine.

    A call makes ``launches``, enters ``functions`` (in Python, and in C from Python), ``frames`` of them in Python, and
    allocates ``fresh`` tensors, each as (bytes, dtype). Of an operator they are those that it returns, one by one.
    """

    call: str
    form: str
    least: float
    median: float
    launches: int
    functions: int
    frames: int
    fresh: list[tuple[int, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 when there is no Triton to launch with, or kernels are interpreted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks overhead", description="Time from a Python call to its launches, without a GPU."
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of {CALLS} calls ({ROUNDS})")
    parser.add_argument("--only", metavar="TEXT", help='calls whose row has this text, such as "on chip"')
    parser.add_argument("--profile", action="store_true", help="where the time of each call goes")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="new file for the rows as JSON lines")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    if (reason := why_not()) is not None:
        print(f"python -m benchmarks overhead cannot compile kernels: {reason}", file=sys.stderr)
        return 2
    print(
        f"microseconds per call, least and median of {args.rounds} rounds; limit for one launch: {LIMIT_MICROSECONDS}"
    )
    numbers = f"{'least':>7}{'median':>7}{'launches':>10}{'functions':>11}{'frames':>8}"
    print(f" {'form':11}{'call':20}{numbers}   fresh tensors")
    rows = []
    for shape in SHAPES:
        with launching(shape) as stub:
            for name, call in calls(shape).items():
                if args.only is not None and args.only not in f"{shape.form} {name}":
                    continue
                rows.append(measure(name, call, shape, stub, args.rounds))
                print_row(rows[-1])
                if args.profile:
                    profile(call)
    if args.json is not None:
        write_text(args.json, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return 0


@contextmanager
def launching(shape: Shape) -> Iterator[StubDriver]:
    """Make a context in which the Triton backend takes CPU tensors and launches on a stub, and "auto" tries it."""
    from gcp_kernels.ops.isqrt_pool.triton import launch as isqrt
    from gcp_kernels.ops.triton_device.architecture import Architecture

    from .stub_driver import StubDriver, stubbed

    arch = Architecture(CAPABILITY, shape.multiprocessors)

    def architecture(device: torch.device) -> Architecture:
        return arch

    def auto_order(device_type: str) -> tuple[str, ...]:
        return backends.AUTO_ORDER

    def interpreted() -> bool:
        """Say yes when the backend asks on its way to a verdict, so that it takes tensors on the CPU."""
        return True

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(isqrt, "architecture", architecture))
        stack.enter_context(mock.patch.object(backends, "auto_order", auto_order))
        stack.enter_context(mock.patch.object(backends.triton, "_interpreted", interpreted))
        yield stack.enter_context(stubbed(StubDriver(CAPABILITY)))


def calls(shape: Shape) -> dict[str, Callable[[], Any]]:
    """List the ways into the backend, from the inside out; only the last has autograd record the call."""
    isqrt = importlib.import_module("gcp_kernels.ops.isqrt_pool.triton.launch")
    x = torch.randn(shape.b, shape.c, shape.m)
    image = x.view(shape.b, shape.c, int(math.sqrt(shape.m)), -1)
    leaf = image.clone().requires_grad_()
    n_iter = shape.n_iter
    pooled, centre, trace, iterates = isqrt.isqrt_pool(x, n_iter, True, False, "default")
    grad = torch.ones_like(pooled)
    return {
        "backend forward": lambda: isqrt.isqrt_pool(x, n_iter, True, False, "default"),
        "backend backward": lambda: isqrt.isqrt_pool_backward(
            grad, x, centre, trace, iterates, n_iter, True, "default"
        ),
        "operator forward": lambda: torch.ops.gcp_kernels.isqrt_pool(x, n_iter, True, False, "default", "auto"),
        "operator backward": lambda: torch.ops.gcp_kernels.isqrt_pool_backward(
            grad, x, centre, trace, iterates, n_iter, True, "default", "auto"
        ),
        "fused_gcp": lambda: gcp_kernels.fused_gcp(image, n_iter=n_iter),
        "fused_gcp, training": lambda: gcp_kernels.fused_gcp(leaf, n_iter=n_iter),
    }


def measure(name: str, call: Callable[[], Any], shape: Shape, stub: StubDriver, rounds: int) -> CallCost:
    """Count a call's launches and fresh tensors, then time it."""
    call()  # compiles
    before = stub.launches
    call()
    launches = stub.launches - before
    with FreshTensors() as fresh:
        call()
    frames, functions = entered(call)
    turns = [1e6 * seconds / CALLS for seconds in timeit.repeat(call, number=CALLS, repeat=rounds)]
    return CallCost(name, shape.form, min(turns), statistics.median(turns), launches, functions, frames, fresh.found)


def entered(call: Callable[[], Any]) -> tuple[int, int]:
    """Count the functions that are entered in a call: in Python, and those in Python or from Python in C."""
    found = {"call": 0, "c_call": 0}

    def count(frame: Any, event: str, argument: Any) -> None:
        if event in found:
            found[event] += 1

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found["call"], sum(found.values())


class FreshTensors(TorchDispatchMode):
    """Notes every tensor with memory of its own that an operation returns inside the block, as bytes and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(returned.alias_info for returned in func._schema.returns):
            tensors = result if isinstance(result, tuple) else (result,)
            self.found += [(tensor.nbytes, str(tensor.dtype).removeprefix("torch.")) for tensor in tensors]
        return result


def print_row(row: CallCost) -> None:
    mark = "!" if row.launches == 1 and row.least > LIMIT_MICROSECONDS else " "
    print(
        f"{mark}{row.form:11}{row.call:20}{row.least:7.1f}{row.median:7.1f}{row.launches:10}{row.functions:11}{row.frames:8}"
        f"   {len(row.fresh)} of {sum(size for size, _ in row.fresh)} bytes",
        flush=True,
    )


def profile(call: Callable[[], Any]) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(CALLS):
        call()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(15)
