"""How fast a case can be on this machine: arithmetic needed, bytes that must move, and two measured ceilings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gcp_kernels.ops.flops import isqrt_pool_flop_on_channels, isqrt_pool_flop_on_positions
from gcp_kernels.ops.shapes import triangle_size

from ..cases import DTYPES, Case
from ..timing import Spread, seconds

# Bytes of the copy and order of the product, by device: large against caches and launches, done in a second.
COPY_BYTES = {"cuda": 2**30, "cpu": 2**27}
PRODUCT_ORDER = {"cuda": 8192, "cpu": 1536}
REPETITIONS = {"cuda": 20, "cpu": 7}


def useful_flop(b: int, c: int, m: int, n_iter: int, direction: str) -> int:
    """Count the floating-point operations that a pass needs, on the side that needs fewer (``ops/flops.py``).

    At B = C = 256, M = 196, N = 5 this makes 34.0e9 forward and 86.6e9 backward, on the side of the positions; on that
    of the channels it would be 54.8e9 and 156.9e9.
    """
    sides = isqrt_pool_flop_on_channels(c, m, n_iter), isqrt_pool_flop_on_positions(c, m, n_iter)
    return b * min(_by_direction(*side)[direction] for side in sides)


def _by_direction(forward: int, backward: int) -> dict[str, int]:
    return {"inference": forward, "forward": forward, "backward": backward, "both": forward + backward}


def necessary_bytes(b: int, c: int, m: int, direction: str, element: int) -> int:
    """Count the bytes that must cross the memory interface: each input read once, each result written once.

    Forward reads x and writes the triangle; backward reads x and the upstream triangle and writes the gradient of x.
    Statistics, B (C + 1) numbers, are left out.
    """
    features, triangle = b * c * m, b * triangle_size(c)
    forward, backward = features + triangle, 2 * features + triangle
    elements = {"inference": forward, "forward": forward, "backward": backward, "both": forward + backward}
    return element * elements[direction]


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in this run: bytes per second of a copy, read and written, and FLOP per second."""

    bytes_per_second: float
    flop_per_second: float
    product: str

    def as_dict(self) -> dict[str, str | float]:
        """Give the ceilings as rows carry them."""
        return {
            "copy_gb_per_s": round(self.bytes_per_second / 1e9, 3),
            "product_tflop_per_s": round(self.flop_per_second / 1e12, 5),
            "product": self.product,
        }

    def bound(self, case: Case) -> float:
        """Find the seconds below which the case cannot go: the longer of arithmetic and traffic."""
        arithmetic = useful_flop(case.batch, case.channels, case.positions, case.n_iter, case.direction)
        element = DTYPES[case.dtype].itemsize
        traffic = necessary_bytes(case.batch, case.channels, case.positions, case.direction, element)
        return max(arithmetic / self.flop_per_second, traffic / self.bytes_per_second)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Time a large copy and a large product of normal numbers: float16 on a GPU, float32 on a CPU."""
    order, dtype = PRODUCT_ORDER[device.type], torch.float16 if device.type == "cuda" else torch.float32
    name = f"{str(dtype).removeprefix('torch.')} product of {order} x {order}"
    return Ceilings(copied_bytes_per_second(device), multiplied_flop_per_second(device, order, dtype), name)


def copied_bytes_per_second(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def multiplied_flop_per_second(device: torch.device, order: int, dtype: torch.dtype) -> float:
    # Zeros or ones draw less power than real numbers, and the clock stays higher than it will in use.
    left, right = (torch.randn(order, order, device=device, dtype=dtype) for _ in range(2))
    return 2 * order**3 / median_seconds(lambda: left @ right, device)


def median_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Measure the median seconds after a warm-up."""
    for _ in range(3):
        call()
    return Spread.of([seconds(call, device) for _ in range(REPETITIONS[device.type])]).median
