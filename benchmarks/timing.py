"""Interleaved timing: on a busy machine only ratios taken side by side in one run mean anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from gcp_kernels.commands.spread import Spread

Clock = Callable[[], float]

# A turn holds several calls of a small case, so that one disturbed call does not decide it.
TURN_SECONDS = {"cpu": 0.1, "cuda": 0.01}
MOST_CALLS = 100
# Who is so slow that its rounds would take longer than this has fewer of them, but as many as quartiles need.
PROVIDER_SECONDS = {"cpu": 3.0, "cuda": 0.5}
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Budget:
    """How long a turn should take, how long all turns of one provider may, and how many rounds there are at most."""

    rounds: int
    turn_seconds: float
    provider_seconds: float

    @classmethod
    def on(cls, device: torch.device, rounds: int, turn: float | None = None, provider: float | None = None) -> Budget:
        """Choose the budget of a kind of device, except for what is given."""
        return cls(rounds, turn or TURN_SECONDS[device.type], provider or PROVIDER_SECONDS[device.type])

    def calls(self, seconds: float) -> int:
        """Count the calls that fill a turn, at most :data:`MOST_CALLS`."""
        return max(1, min(MOST_CALLS, round(self.turn_seconds / max(seconds, 1e-7))))

    def rounds_of(self, seconds: float) -> int:
        """Count the rounds for a provider whose call takes so long."""
        affordable = int(self.provider_seconds / max(seconds * self.calls(seconds), 1e-7))
        return min(self.rounds, max(LEAST_ROUNDS, affordable))


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Measure the seconds of one call: by the wall clock on a CPU, between two events of the stream on a GPU."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(clocks: Mapping[str, Clock], budget: Budget) -> dict[str, list[float]]:
    """Measure seconds per call, one entry per round, by each of ``clocks``, which make one call and say what it took.

    In a round everyone has one turn of several calls and keeps the median of them. The first to go changes from round
    to round, so that nobody always runs on the caches of the same neighbour.
    """
    names = list(clocks)
    trials = {name: trial(clocks[name]) for name in names}
    measured: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(budget.rounds):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            if turn < budget.rounds_of(trials[name]):
                measured[name].append(statistics.median(clocks[name]() for _ in range(budget.calls(trials[name]))))
    return measured


def trial(clock: Clock) -> float:
    """Measure the seconds that a call of the clock takes, including all that it does besides what it times.

    The faster of two, after a warm-up.
    """

    def duration() -> float:
        started = time.perf_counter()
        return max(clock(), time.perf_counter() - started)

    clock()
    return min(duration(), duration())


def ratios(times: Sequence[float], ours: Sequence[float]) -> Spread:
    """Divide by our time, round by round as far as both have rounds: above 1 means that ours is faster."""
    return Spread.of([other / own for other, own in zip(times, ours, strict=False)])
