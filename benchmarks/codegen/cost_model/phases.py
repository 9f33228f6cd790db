"""What a walk consists of: phases by what is done in them, with their instructions and their time.

Nothing in machine code says what it is for. But what is between two barriers tells: it multiplies on tensor cores, or
reads features or the gradient, or stores results. What a warp stores to matrices before its first product or behind
its last one is an epilogue, and so is what is left and stores as much as a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .memory import LOCAL
from .pipeline import Unit, unit_of
from .registers import Array
from .walk import CONTROL, Trace

FEATURES, PRODUCTS, EPILOGUES = "features", "products", "epilogues"
WITH_FEATURES, GRADIENT, RESULT, OTHER = "with features", "gradient", "result", "other"
PHASES = {
    FEATURES: "statistics of the features, and staging them",
    WITH_FEATURES: "products with features, at the start and at the end",
    PRODUCTS: "products of the iteration, and streaming their operands",
    EPILOGUES: "epilogues: what a product changes, block by block",
    GRADIENT: "reading the upstream gradient",
    RESULT: "storing the result",
    OTHER: "between barriers and none of these",
}

# Kinds of instructions that are counted; "skipped" are HMMA whose guard is off: issued, and no products.
KINDS = ("HMMA", "skipped", "LDSM", "shared", "global", "spills", "float", "integer", "control", "barrier")
OF_UNIT = {Unit.SHARED: "shared", Unit.GLOBAL: "global", Unit.BARRIER: "barrier", Unit.FLOAT: "float"}
# Regions of global memory, numbered as in launch.cpp.
X, RESULT_REGION, GRADIENT_REGION, X_GRADIENT, SLAB, REGIONS = 1, 2, 3, 4, 6, 7


@dataclass
class Phase:
    """Cycles of a phase, the mean of a CTA's warps; and its instructions by kind, of all of them.

    ``epilogues`` is how often a matrix has been gone through block by block.
    """

    cycles: float = 0.0
    epilogues: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


@dataclass(frozen=True)
class Segment:
    """A part of what a warp issues, from its number ``start`` on to the next segment's."""

    start: int
    phase: str


class Phases:
    """The phases of a walk; ``blocks`` is how many a symmetric matrix of the iteration has."""

    def __init__(self, trace: Trace, blocks: int) -> None:
        self._trace = trace
        names = [trace.instructions[event.number].name for event in trace.events]
        self._kinds = np.array(
            [
                KINDS.index(kind_of(name, unit_of(trace.instructions[event.number]), event.transactions))
                for event, name in zip(trace.events, names, strict=True)
            ]
        )
        self._regions = np.array(
            [
                event.region if event.transactions and name in ("LDG", "STG", "LDGSTS") else 0
                for event, name in zip(trace.events, names, strict=True)
            ]
        )
        self._stores = np.array(
            [
                event.transactions > 0 and (name in ("STS", "STSM") or (name == "STG" and event.region == SLAB))
                for event, name in zip(trace.events, names, strict=True)
            ]
        )
        self._streams = np.array([name in ("LDGSTS", "LDGDEPBAR") for name in names])
        self._warps = [np.array(warp) for warp in trace.warps]
        self._ends = [np.flatnonzero(self._kinds[warp] == KINDS.index("barrier")) + 1 for warp in self._warps]
        self._blocks = blocks
        self.phases = {name: Phase() for name in PHASES}
        self.segments = self._segments()
        self._count()

    def starts(self) -> list[list[int]]:
        """Where the segments of each warp start: when it is there is to be noted."""
        return [[segment.start for segment in warp] for warp in self.segments]

    def time(self, times: Sequence[Sequence[float]]) -> dict[str, Phase]:
        """Add up cycles, from when each warp was at the starts of its segments, and at its end."""
        for warp, at in zip(self.segments, times, strict=True):
            for segment, begin, end in zip(warp, at, at[1:], strict=False):
                self.phases[segment.phase].cycles += (end - begin) / len(self.segments)
        return self.phases

    def issued(self) -> Iterator[tuple[Array, Array, Array]]:
        """Give what each warp issues: numbers of instructions, names of their phases, and whether they are barriers."""
        numbers = np.array([event.number for event in self._trace.events])
        for warp, segments in zip(self._warps, self.segments, strict=True):
            lengths = np.diff([*(segment.start for segment in segments), len(warp)])
            names = np.repeat([segment.phase for segment in segments], lengths)
            yield numbers[warp], names, self._kinds[warp] == KINDS.index("barrier")

    def _intervals(self) -> Iterator[list[Array]]:
        """Between two barriers, what each warp issues."""
        bounds = [[0, *ends, len(warp)] for warp, ends in zip(self._warps, self._ends, strict=True)]
        for number in range(max(map(len, bounds)) - 1):
            yield [
                warp[bound[number] : bound[number + 1]] if number + 1 < len(bound) else warp[:0]
                for warp, bound in zip(self._warps, bounds, strict=True)
            ]

    def _segments(self) -> list[list[Segment]]:
        segments: list[list[Segment]] = [[] for _ in self._warps]
        places = [0] * len(self._warps)
        for interval, name in zip(self._intervals(), self._names(), strict=True):
            whole = sum(int(self._stores[events].sum()) for events in interval) if name == EPILOGUES else 0
            stored = {"before": 0, "behind": 0, "": whole}
            for warp, events in enumerate(interval):
                for start, phase, part in self._parts(events, name):
                    if segments[warp][-1:] == [] or segments[warp][-1].phase != phase:
                        segments[warp].append(Segment(places[warp] + start, phase))
                    if part:
                        end = len(events) if part == "behind" else next(self._first(events))
                        stored[part] += int(self._stores[events[start:end]].sum())
                places[warp] += len(events)
            self.phases[EPILOGUES].epilogues += sum(count >= self._blocks for count in stored.values())
        return segments

    def _names(self) -> list[str]:
        """Name the phase of each interval. Products that others with features follow at once make their operands."""
        names: list[str] = []
        staged = False
        for interval in self._intervals():
            events = np.concatenate(interval)
            streams = bool(self._streams[events].any())
            touched = np.bincount(self._regions[events], minlength=REGIONS)
            names.append(self._phase(events, touched, staged, streams))
            # Features stay staged until their products end: at once, or behind as many intervals as L is streamed in.
            staged = names[-1] == FEATURES or (staged and streams)
        for number in reversed(range(len(names) - 1)):
            if names[number : number + 2] == [PRODUCTS, WITH_FEATURES]:
                names[number] = WITH_FEATURES
        return names

    def _phase(self, events: Array, touched: Array, staged: bool, streams: bool) -> str:
        if (self._kinds[events] == KINDS.index("HMMA")).any():
            return WITH_FEATURES if staged or touched[X_GRADIENT] or touched[RESULT_REGION] else PRODUCTS
        if touched[X]:
            return FEATURES
        if touched[RESULT_REGION] or touched[X_GRADIENT]:
            return RESULT
        if touched[GRADIENT_REGION]:
            return GRADIENT
        if streams:
            return WITH_FEATURES if staged else PRODUCTS
        return EPILOGUES if self._stores[events].sum() >= self._blocks else OTHER

    def _first(self, events: Array) -> Iterator[int]:
        """Where the products of a warp begin, and where they end."""
        products = np.flatnonzero(self._kinds[events] == KINDS.index("HMMA"))
        yield from (int(products[0]), int(products[-1]) + 1)

    def _parts(self, events: Array, name: str) -> Iterator[tuple[int, str, str]]:
        """Split what a warp issues in an interval: where a part starts, its phase, and which epilogue it is."""
        if not len(events):
            return
        if not (self._kinds[events] == KINDS.index("HMMA")).any():
            yield 0, name, ""
            return
        first, end = self._first(events)
        stores = np.flatnonzero(self._stores[events])
        before, behind = stores[stores < first], stores[stores >= end]
        if before.size:
            yield 0, EPILOGUES, "before"
        yield int(before[-1]) + 1 if before.size else 0, name, ""
        if behind.size:
            yield end, EPILOGUES, "behind"
        elif (self._regions[events[end:]] == X_GRADIENT).any():
            yield end, RESULT, ""

    def _count(self) -> None:
        for warp, segments in zip(self._warps, self.segments, strict=True):
            for segment, end in zip(segments, [*(one.start for one in segments[1:]), len(warp)], strict=True):
                counts = np.bincount(self._kinds[warp[segment.start : end]], minlength=len(KINDS))
                for kind, count in zip(KINDS, counts, strict=True):
                    self.phases[segment.phase].counts[kind] += int(count)


def kind_of(name: str, unit: Unit, transactions: int) -> str:
    """Name the kind of an instruction, among KINDS."""
    if name == "HMMA" and not transactions:
        return "skipped"
    if name in ("HMMA", "LDSM"):
        return name
    if name in LOCAL:
        return "spills"
    return OF_UNIT.get(unit) or ("control" if name in CONTROL else "integer")
