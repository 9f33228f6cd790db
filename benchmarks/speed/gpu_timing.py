"""Time on a GPU: inputs that are not in the L2 cache, and CUDA graphs, so that the GPU is timed and not Python.

A call finds its inputs outside the cache in one of two ways. Where a few copies of the inputs exceed the cache, calls
go through the copies in turn. Where they would have to be many, the cache is overwritten before each call, outside of
what is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..timing import Clock, seconds

# The inputs of a round of calls together are this many times the cache.
CACHE_MULTIPLE = 2
# More copies than this would make long graphs; then the cache is overwritten instead.
MOST_COPIES = 16
WARM_UP = 3

Call = Callable[[int], object]


@dataclass(frozen=True)
class Cold:
    """How inputs are kept out of the cache: through ``copies``, or by writing ``flushed`` bytes before each call."""

    copies: int
    flushed: int

    @classmethod
    def of(cls, input_bytes: int, cache_bytes: int) -> Cold:
        """Make the plan for inputs of a size.

        With n copies in turn, n - 1 others have passed through the cache before one is read again.
        """
        copies = 1 + -(-CACHE_MULTIPLE * cache_bytes // max(input_bytes, 1))
        if copies <= MOST_COPIES:
            return cls(copies, 0)
        return cls(1, CACHE_MULTIPLE * cache_bytes)

    def __str__(self) -> str:
        return f"L2 overwritten ({self.flushed >> 20} MiB)" if self.flushed else f"{self.copies} inputs in turn"


def cache_bytes(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def clock_of(run: Callable[[], object], calls: int, cold: Cold, device: torch.device) -> Clock:
    """Make a clock of ``run``, which makes ``calls`` calls: seconds per call."""
    scratch = torch.empty(cold.flushed, dtype=torch.uint8, device=device) if cold.flushed else None

    def clock() -> float:
        if scratch is not None:
            scratch.zero_()
        return seconds(run, device) / calls

    return clock


def eager_clock(call: Call, cold: Cold, device: torch.device) -> Clock:
    """Make a clock of the calls as Python makes them, one on each copy."""

    def run() -> None:
        for copy in range(cold.copies):
            call(copy)

    return clock_of(run, cold.copies, cold, device)


def graph_clock(calls: Sequence[Callable[[], object]], cold: Cold, device: torch.device) -> Clock:
    """Make a clock of a CUDA graph that holds one call on each copy.

    What a call of the backward pass needs from a forward pass must have run on :func:`capture_stream`, where autograd
    then runs it, and from leaves of which no graph was recorded on another stream.

    Raises:
        RuntimeError: a call does what cannot be captured.
    """
    stream = capture_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            for call in calls:
                call()
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # After a capture that failed, torch.cuda.graph itself leaves its stream the current one.
    with torch.cuda.stream(torch.cuda.current_stream(device)), torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return clock_of(graph.replay, len(calls), cold, device)


_streams: dict[int, torch.cuda.Stream] = {}


def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Get the one side stream of a device on which everything for a graph runs."""
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _streams:
        _streams[index] = torch.cuda.Stream(device)
    return _streams[index]
