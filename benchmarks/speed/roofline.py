"""How fast a case can be on this machine: arithmetic needed, bytes that must move, and two measured ceilings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gcp_kernels.ops.shapes import triangle_size

from ..cases import DTYPES, Case
from ..timing import Spread, seconds

# Bytes of the copy and order of the product, by device: large against caches and launches, done in a second.
COPY_BYTES = {"cuda": 2**30, "cpu": 2**27}
PRODUCT_ORDER = {"cuda": 8192, "cpu": 1536}
REPETITIONS = {"cuda": 20, "cpu": 7}


def useful_flop(b: int, c: int, m: int, n_iter: int, direction: str) -> int:
    """Count the floating-point operations that a pass needs, on the side that needs fewer.

    At B = C = 256, M = 196, N = 5 this makes 34.0e9 forward and 86.6e9 backward, on the side of the positions; on that
    of the channels it would be 54.8e9 and 156.9e9.
    """
    return b * min(flop_on_channels(c, m, n_iter)[direction], flop_on_positions(c, m, n_iter)[direction])


def flop_on_channels(c: int, m: int, n_iter: int) -> dict[str, int]:
    """Count the operations of a sample by direction; a multiplication and an addition are two.

    All iterates and their tangents are symmetric, so that of every C x C product only the upper triangle is needed:
    half of 2 C^3, counted here as C^3. N iterations (section "Forward" of docs/mathematics.md, coupled Y and Z):

    - the first takes one product, A T; each of the N - 2 in the middle three, Z Y, Y T and T Z; the last two, Z Y and
      Y T. That is 3N - 3 in all, and 1 for N = 1.
    - The covariance, (x - mu)(x - mu)^T, is half of 2 C^2 M.

    Backward is the tangent of the iteration, d(U V) = dU V + U dV, twice as many products; the first, with Z = I and
    dT = -dA / 2, is 2, so that there are 6N - 6, and 2 for N = 1. Of the iterates all but the last product are needed
    again, 3N - 4, and 0 for N = 1. The product with x - mu at the end is not symmetric: 2 C^2 M. The covariance, which
    an implementation may keep or take again, is counted in the forward pass only. Two iterations in one take a product
    fewer than two; that is not counted, so that runs can be compared.
    """
    forward_products = 1 if n_iter == 1 else 3 * n_iter - 3
    backward_products = 2 if n_iter == 1 else 6 * n_iter - 6
    forward = forward_products * c**3 + c**2 * m
    backward = (backward_products + forward_products - 1) * c**3 + 2 * c**2 * m
    return _by_direction(forward, backward)


def flop_on_positions(c: int, m: int, n_iter: int) -> dict[str, int]:
    """Count the operations of a sample by direction, with the iteration on the Gram matrix of the positions.

    Of M x M products too, of the Gram matrix and of the result half is needed. Z_N takes 3N - 3 products: none in the
    first iteration, where Z_1 = T; then W T, W T T and Z T in each.

    - Forward, besides: K = z^T z is half of 2 C M^2; T = z q is 2 C M^2, and T z^T half of 2 C^2 M.
    - Backward: 6N - 6 products of tangents, and all but the last of the iterates again, 3N - 4, both 0 for N = 1;
      besides, H = G z is 2 C^2 M, P = z^T H half of 2 C M^2, and H q + z L twice 2 C M^2.
    """
    products = 3 * n_iter - 3
    forward = products * m**3 + 3 * c * m**2 + c**2 * m
    backward = (2 * products + max(products - 1, 0)) * m**3 + 2 * c**2 * m + 5 * c * m**2
    return _by_direction(forward, backward)


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
