"""The times by which "auto" orders backends on a GPU: one table, predicted and, since there was a GPU, measured.

Each row of :data:`TABLE` is a class of shapes of an operation in one precision. It has the times of backends for one
shape of that class, where they come from, and what explains them. The order is computed from them:

- Backends keep the order of ``backends.BACKENDS``, but one goes before another where it is faster, in each pass by
  itself: what a forward pass keeps, any backend's backward pass can go on with.
- A predicted time may be wrong by :data:`UNCERTAINTY`, a measured one is taken as it is and counts instead. A
  difference that two times leave uncertain changes nothing. Errors of two predictions are taken to be independent, so
  the first order stays up to a factor of 5 between them, and up to 3.1 between a prediction and a measured time.
- A backend without a time in the row stays where it is, and so does every backend for an operation without rows.

Times are of 256 samples, which fill a GPU, at 5 iterations on an H100; the order is used for every batch and GPU. Those
of "fast" are of float16, those of "high" of float32. To enter a measured time, add it to its row, beside the
prediction, which stays to tell how far predictions can be trusted. All have been measured; both kinds are of the
kernels of commit 35e1129. After it the rings of results on the side of the positions got other places, and the last two
iterations became one, except backward on the side of the channels; there, where all matrices are on chip, the upstream
gradient is read from a copy in shared memory: 1 to 6 % less is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

SAMPLES = 256
# By precision.
DTYPES = {"fast": "float16", "high": "float32"}

# A prediction may be so many times too large or too small. The 42 passes that have both kinds of times took 1.1 to 3.0
# times as long as predicted, those of CUDA 1.1 to 2.1 times. None took less, but that says little of the next: two took
# 6.7 and 4.6 times as long while CUDA had narrow stores, whose time the model did not know.
UNCERTAINTY = 3.1

# Above every number of channels and positions.
UNBOUNDED = 2**63


@dataclass(frozen=True)
class Times:
    """What one backend takes for each pass, in microseconds, None if unknown, and where the figures come from."""

    backend: str
    forward: float | None
    backward: float | None
    source: str
    measured: bool = False

    def of(self, backward: bool) -> float | None:
        """Give that of a pass."""
        return self.backward if backward else self.forward

    def is_faster_than(self, other: Times, backward: bool) -> bool:
        """Say whether it is faster in a pass by more than what is uncertain about the two."""
        time, others = self.of(backward), other.of(backward)
        if time is None or others is None:
            return False
        doubts = (1.0 if times.measured else UNCERTAINTY for times in (self, other))
        return time * math.exp(math.hypot(*map(math.log, doubts))) < others

    def __str__(self) -> str:
        """Write it for ``python -m gcp_kernels info``."""
        kind = "measured" if self.measured else "predicted"
        return f"{self.backend} {_figure(self.forward)} + {_figure(self.backward)} us {kind}"


def _figure(time: float | None) -> str:
    return "?" if time is None else f"{time:g}"


@dataclass(frozen=True)
class Row:
    """A class of (C, M) features in a precision, the times of one ``shape`` (C, M) of it, and what explains them."""

    operation: str
    precision: str
    channels: range
    positions: range
    shape: tuple[int, int]
    times: tuple[Times, ...]
    reason: str

    def covers(self, operation: str, c: int, m: int, precision: str) -> bool:
        """Say whether features belong to this class."""
        return (self.operation, self.precision) == (operation, precision) and c in self.channels and m in self.positions

    def times_of(self, backend: str, backward: bool) -> Times | None:
        """Find the times of a backend that count for a pass: measured ones, else predicted ones, if there are any."""
        found = [times for times in self.times if times.backend == backend and times.of(backward) is not None]
        return max(found, key=lambda times: times.measured, default=None)

    def order(self, backends: Sequence[str], backward: bool) -> tuple[str, ...]:
        """Order backends for a pass: each stays behind those before it, but passes those than which it is faster."""
        ordered: list[str] = []
        for backend in backends:
            places = (place for place, other in enumerate(ordered) if self._goes_before(backend, other, backward))
            ordered.insert(next(places, len(ordered)), backend)
        return tuple(ordered)

    def _goes_before(self, backend: str, other: str, backward: bool) -> bool:
        times, others = self.times_of(backend, backward), self.times_of(other, backward)
        return times is not None and others is not None and times.is_faster_than(others, backward)

    def __str__(self) -> str:
        """Name the class."""
        return f"{self.precision}, {_extent(self.channels)} channels, {_extent(self.positions)} positions"


def _extent(numbers: range) -> str:
    if numbers.stop == UNBOUNDED:
        return "any number of" if numbers.start == 1 else f"{numbers.start} or more"
    return f"{numbers.start} to {numbers.stop - 1}"


def _cuda(forward: float, backward: float) -> Times:
    return Times("cuda", forward, backward, "predicted by python -m benchmarks predict from the machine code for sm_90")


def _triton(forward: float, backward: float) -> Times:
    return Times("triton", forward, backward, "estimated in a review of the kernels and their machine code for sm_90")


def _measured(backend: str, forward: float, backward: float) -> Times:
    """Give the medians of a run on an H100."""
    source = "benchmarks/results/h100-2026-11-27-second/results.csv, commit 35e1129"
    return Times(backend, forward, backward, source, measured=True)


_ANY = range(1, UNBOUNDED)

TABLE = (
    Row(
        *("isqrt_pool", "fast", range(1, 33), _ANY, (32, 196)),
        (_cuda(16.0, 33.6), _measured("cuda", 31.8, 48.9), _measured("triton", 22.2, 19.5)),
        "both are on chip in both passes; Triton takes seven tenths of the time forward, and two fifths backward",
    ),
    Row(
        *("isqrt_pool", "fast", range(33, 65), _ANY, (64, 196)),
        (_cuda(23.8, 55.0), _triton(8, 85), _measured("cuda", 28.6, 64.8), _measured("triton", 16.6, 118.9)),
        "CUDA is on chip in both passes, Triton forward, where it leads; backward its tile goes through the L2 cache",
    ),
    Row(
        *("isqrt_pool", "fast", range(65, 129), range(65, UNBOUNDED), (128, 196)),
        (_cuda(50.8, 164.9), _triton(38, 200), _measured("cuda", 62.9, 205.6), _measured("triton", 50.3, 591.7)),
        "CUDA is on chip in both passes, Triton forward, where it leads; backward its tiles go through the L2 cache",
    ),
    Row(
        *("isqrt_pool", "fast", range(129, 257), range(65, UNBOUNDED), (256, 196)),
        (
            _cuda(222.9, 713.6),
            _triton(550, 1400),
            _measured("cuda", 284.4, 1034.9),
            _measured("triton", 1107.5, 3186.4),
        ),
        "CUDA iterates on the smaller side, on chip forward; Triton streams in both, for three to four times as long",
    ),
    Row(
        *("isqrt_pool", "fast", range(65, 257), range(1, 65), (256, 49)),
        (_cuda(42.4, 88.3), _triton(32, 70), _measured("cuda", 51.2, 115.7), _measured("triton", 81.4, 162.7)),
        "both are on chip on the side of the positions; Triton takes 1.6 times as long forward, and 1.4 times backward",
    ),
    Row(
        *("isqrt_pool", "fast", range(257, UNBOUNDED), range(1, 65), (2048, 49)),
        (_cuda(671.2, 1700.1), _measured("cuda", 1134.0, 3616.9), _measured("triton", 1479.8, 6204.1)),
        "both are on chip on the side of the positions; Triton takes 1.3 times as long forward, and 1.7 times backward",
    ),
    Row(
        *("isqrt_pool", "fast", range(257, UNBOUNDED), range(65, UNBOUNDED), (512, 196)),
        (_cuda(381.3, 1259.0), _measured("cuda", 521.8, 1960.3), _measured("triton", 1761.0, 6050.0)),
        "CUDA is on chip forward, for up to 256 positions, and refuses more; Triton streams in both passes",
    ),
    Row(
        *("isqrt_pool", "high", range(1, 33), _ANY, (32, 196)),
        (_cuda(27.9, 53.8), _measured("cuda", 41.9, 72.2), _measured("triton", 17.1, 26.8)),
        "both are on chip in both passes; Triton takes two fifths of the time",
    ),
    Row(
        *("isqrt_pool", "high", range(33, 65), _ANY, (64, 196)),
        (_cuda(48.1, 103.3), _triton(16, 70), _measured("cuda", 56.0, 118.7), _measured("triton", 26.7, 145.0)),
        "both as in fast: Triton takes half of the time forward, and a quarter more backward",
    ),
    Row(
        *("isqrt_pool", "high", range(65, 129), range(65, UNBOUNDED), (128, 196)),
        (_cuda(113.6, 312.4), _triton(150, 300), _measured("cuda", 141.5, 373.1), _measured("triton", 303.2, 908.2)),
        "CUDA is on chip in both passes; Triton streams in both, and takes more than twice as long",
    ),
    Row(
        *("isqrt_pool", "high", range(129, 257), range(65, UNBOUNDED), (256, 196)),
        (
            _cuda(654.0, 1848.8),
            _triton(1100, 2500),
            _measured("cuda", 926.5, 2521.2),
            _measured("triton", 1973.8, 5146.1),
        ),
        "both stream through the L2 cache; CUDA iterates on the smaller side, Triton takes twice as long",
    ),
    Row(
        *("isqrt_pool", "high", range(65, 257), range(1, 65), (256, 49)),
        (_cuda(88.2, 178.1), _measured("cuda", 105.1, 245.1), _measured("triton", 271.0, 366.2)),
        "both are on chip on the side of the positions; Triton takes 2.6 times as long forward, and 1.5 times backward",
    ),
    Row(
        *("isqrt_pool", "high", range(257, UNBOUNDED), range(1, 65), (2048, 49)),
        (_cuda(1239.5, 2867.7), _measured("cuda", 2151.2, 5903.1), _measured("triton", 1985.6, 14175.5)),
        "both are on chip on the side of the positions; Triton takes 8 % less forward, and 2.4 times as long backward",
    ),
    Row(
        *("isqrt_pool", "high", range(257, UNBOUNDED), range(65, UNBOUNDED), (512, 196)),
        (_cuda(1065.5, 2705.3), _measured("cuda", 1550.9, 3825.2), _measured("triton", 3143.2, 7931.8)),
        "both stream through the L2 cache, CUDA for up to 256 positions, more of which it refuses",
    ),
)

# Operations that have rows.
OPERATIONS = frozenset(row.operation for row in TABLE)


@cache
def order(operation: str, c: int, m: int, precision: str, backends: tuple[str, ...], backward: bool) -> tuple[str, ...]:
    """Order backends for a pass over (C, M) features in "fast" or "high", by :data:`TABLE`; as given without a row."""
    row = next((row for row in TABLE if row.covers(operation, c, m, precision)), None)
    return backends if row is None else row.order(backends, backward)
