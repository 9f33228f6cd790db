"""Interleaved timing: on a busy machine only ratios taken side by side in one run mean anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Step = Callable[[], object]

# Long enough for several calls of the largest case, so that one disturbed call does not decide a turn.
TURN_SECONDS = 0.25


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def seconds(step: Step, device: torch.device) -> float:
    """Seconds that one call takes: wall clock on a CPU, between two events of the stream on a GPU."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def interleaved(
    steps: Mapping[str, Step],
    device: torch.device,
    rounds: int,
    clock: Callable[[Step, torch.device], float] = seconds,
) -> dict[str, list[float]]:
    """Seconds per call, one entry per round, for each of ``steps``.

    In a round everyone has one turn of several calls and keeps the median of them. The first to go changes
    from round to round, so that nobody always runs on the caches of the same neighbour.
    """
    calls = {name: calls_per_turn(step, device, clock) for name, step in steps.items()}
    names = list(steps)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            measured[name].append(statistics.median(clock(steps[name], device) for _ in range(calls[name])))
    return measured


def calls_per_turn(step: Step, device: torch.device, clock: Callable[[Step, torch.device], float]) -> int:
    """Calls that fill a turn, from the faster of two trial calls after a warm-up; at most 100."""
    step()
    fastest = min(clock(step, device) for _ in range(2))
    return max(1, min(100, round(TURN_SECONDS / max(fastest, 1e-6))))


def ratios(times: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times longer than ours, round by round: above 1 means that ours is faster."""
    return Spread.of([other / own for other, own in zip(times, ours, strict=True)])
