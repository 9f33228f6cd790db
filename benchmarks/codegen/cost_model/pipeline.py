"""How long a multiprocessor takes for what its warps issue: a model of issue slots, units, latencies and barriers.

Each warp issues its instructions in order, each when the registers that it reads are there, when its scheduler has a
slot, one a cycle, and when the unit is free. Of the four schedulers each has a quarter of the warps, and tensor cores
and arithmetic units of its own; shared memory and the way to L2 serve all. Not in the model: misses of the caches for
instructions, conflicts in banks of registers, and DRAM.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from .code import Instruction
from .memory import ACCESSES, GLOBAL, LOCAL, SHARED, words_of
from .rates import Rates
from .registers import (
    ALL,
    TRUE,
    UNIFORM_TRUE,
    UNIFORM_ZERO,
    ZERO,
    NotUnderstood,
    predicate_number,
    register_number,
)
from .walk import CONTROL, Event, Trace

SCHEDULERS = 4


class Unit(IntEnum):
    """What an instruction keeps busy beside its issue slot."""

    NONE = 0
    TENSOR = 1
    FLOAT = 2
    INTEGER = 3
    CONVERSION = 4
    SPECIAL = 5
    SHARED = 6
    GLOBAL = 7
    BARRIER = 8
    MULTIPLY = 9


OF_ALL = (Unit.SHARED, Unit.GLOBAL)  # the others there are for each scheduler


FLOAT = {"FADD", "FMUL", "FFMA", "HADD2", "HFMA2", "HMUL2", "FADD2", "FMUL2", "FFMA2"}
CONVERSIONS = {"F2FP", "I2FP"}
SPECIALS = {"MUFU", "I2F", "F2I", "FRND", "F2F"}
NO_TARGET = {"STS", "STG", "STL", "STSM", "LDGSTS", "NOP", "DEPBAR", "LDGDEPBAR"} | CONTROL
# Instructions that write so many predicates and no register.
PREDICATES_SET = {"ISETP": 2, "FSETP": 2, "HSETP2": 2, "PLOP3": 2, "FCHK": 1}
NO_UNIT = {"NOP", "DEPBAR", "LDGDEPBAR", "CS2R", "S2R", "LDC"} | CONTROL


def unit_of(one: Instruction) -> Unit:
    name = one.name
    if name == "HMMA":
        return Unit.TENSOR
    if name in SHARED | LOCAL or name == "SHFL":  # a multiprocessor's memory on chip is one
        return Unit.SHARED
    if name in GLOBAL:
        return Unit.GLOBAL
    if name == "BAR":
        return Unit.BARRIER
    if name == "IMAD":
        return Unit.MULTIPLY
    if name in NO_UNIT or name.startswith("U") or name in ("S2UR", "R2UR", "LDCU"):
        return Unit.NONE
    for names, unit in ((FLOAT, Unit.FLOAT), (CONVERSIONS, Unit.CONVERSION), (SPECIALS, Unit.SPECIAL)):
        if name in names:
            return unit
    return Unit.INTEGER


@dataclass(frozen=True)
class Costs:
    """An instruction as the pipeline sees it."""

    unit: Unit
    busy: float
    latency: float
    needs: tuple[int, ...]  # registers and predicates, read or written
    gives: tuple[int, ...]


def costs_of(one: Instruction, rates: Rates) -> Costs:
    unit = unit_of(one)
    arithmetic = rates.arithmetic_latency.value
    busy, latency = {
        Unit.NONE: (0.0, arithmetic),
        Unit.TENSOR: (rates.product.value, rates.product_latency.value),
        Unit.FLOAT: (rates.float_instruction.value, arithmetic),
        Unit.INTEGER: (rates.integer.value, arithmetic),
        Unit.MULTIPLY: (rates.multiply.value, arithmetic),
        Unit.CONVERSION: (rates.conversion.value, arithmetic),
        Unit.SPECIAL: (rates.special.value, rates.special_latency.value),
        Unit.SHARED: (rates.shared_wavefront.value, rates.shared_latency.value),
        Unit.GLOBAL: (rates.sector.value, rates.global_latency.value),
        Unit.BARRIER: (0.0, rates.barrier.value),
    }[unit]
    reads, gives = registers_of(one)
    return Costs(unit, busy, latency, tuple({*reads, *gives}), tuple(gives))


def registers_of(one: Instruction) -> tuple[list[int], list[int]]:
    """Numbers of what an instruction reads and writes; predicates are behind the registers."""
    widths = [1] * len(one.operands)
    if one.name == "HMMA":
        widths = [4, 4, 2, 4]
    elif one.name in ("LDSM", "STSM"):
        widths[0 if one.name == "LDSM" else 1] = int(one.suffixes[-1])
    elif one.name in ACCESSES:
        widths[1 if one.name.startswith("ST") else 0] = words_of(one)
    elif "WIDE" in one.suffixes:
        widths = [2] + [1] * (len(widths) - 2) + [2]
    elif "64" in one.suffixes:
        widths = [2] * len(widths)
    targets = targets_of(one)
    reads, gives = [], []
    for place, (text, width) in enumerate(zip(one.operands, widths, strict=True)):
        for part in text.split("[")[-1].rstrip("]").split("+"):
            number, predicate = register_number(part), predicate_number(part)
            if number is not None:
                wide = 2 if part.endswith(".64") else width
                (gives if place in targets else reads).extend(range(number, number + wide))
            elif predicate is not None:
                (gives if place in targets else reads).append(ALL + predicate)
    guard = predicate_number(one.guard) if one.guard else None
    if guard is not None:
        reads.append(ALL + guard)
    never = {ZERO, UNIFORM_ZERO, ALL + TRUE, ALL + UNIFORM_TRUE}
    return [number for number in reads if number not in never], [number for number in gives if number not in never]


def targets_of(one: Instruction) -> set[int]:
    """Give the places of operands that are written: predicates in front, a register, and predicates right behind it."""
    if one.name in NO_TARGET or not one.operands:
        return set()
    sets = PREDICATES_SET.get(one.name.removeprefix("U"))
    if sets is not None:
        return set(range(sets))
    place = next((place for place, text in enumerate(one.operands) if predicate_number(text) is None), 0)
    targets = set(range(place + 1))
    for text in one.operands[place + 1 : -1]:
        if predicate_number(text) is None or text.startswith("!"):
            break
        place += 1
        targets.add(place)
    return targets


@dataclass
class Timing:
    """When the last warp ended, when warps of the first CTA were at the places asked for, and how busy units were."""

    cycles: float
    times: list[list[float]]
    busy: dict[Unit, float]
    issued: int


class _Warp:
    """Where a warp is, and when each of its registers can be read."""

    __slots__ = ("copies", "cta", "group", "noted", "place", "ready", "scheduler", "sequence", "times")

    def __init__(self, sequence: Sequence[int], cta: int, scheduler: int, noted: Sequence[int]) -> None:
        self.sequence = sequence
        self.cta = cta
        self.scheduler = scheduler
        self.noted = set(noted)
        self.times: list[float] = []
        self.place = 0
        self.ready = [0.0] * (ALL + 16)
        self.copies = 0.0  # when the asynchronous copies so far have arrived
        self.group: list[float] = []  # the same, for each group of them


class _Multiprocessor:
    """Schedulers, units and barriers, and the warps that are on them."""

    def __init__(self, trace: Trace, rates: Rates, warps: list[_Warp]) -> None:
        self.warps = warps
        self.events = trace.events
        self.code = trace.instructions
        self.costs = [costs_of(one, rates) for one in trace.instructions]
        self.branch, self.room = rates.branch.value, rates.shared_queue.value
        self.slot = [0.0] * SCHEDULERS
        self.free = [[0.0] * SCHEDULERS for _ in Unit]
        self.busy = dict.fromkeys(Unit, 0.0)
        self.left = Counter(warp.cta for warp in warps)
        self.arrived: dict[int, list[int]] = {cta: [] for cta in self.left}
        self.queue = [(0.0, number) for number in range(len(warps))]
        self.last, self.issued = 0.0, 0

    def run(self) -> None:
        while self.queue:
            now, number = heapq.heappop(self.queue)
            warp = self.warps[number]
            event = self.events[warp.sequence[warp.place]]
            cost = self.costs[event.number]
            earliest = self.slot[warp.scheduler]
            if cost.busy and event.transactions:  # what a guard skips takes a slot, and no unit
                unit = self.free[cost.unit]
                free = unit[0] - self.room if cost.unit in OF_ALL else unit[warp.scheduler]
                earliest = free if free > earliest else earliest
            if earliest > now:
                heapq.heappush(self.queue, (earliest, number))
            else:
                self.issue(now, warp, event, cost)
                self.go_on(now, number, warp, event, cost)
        if any(self.left.values()):
            raise NotUnderstood("warps wait at a barrier for others that never come")

    def issue(self, now: float, warp: _Warp, event: Event, cost: Costs) -> None:
        """Take the slot and the unit, and note when results can be read."""
        if warp.place in warp.noted:
            warp.times.append(now)
        self.slot[warp.scheduler] = now + 1
        self.issued += 1
        end = now + cost.latency
        if cost.unit in OF_ALL:
            taken = cost.busy * event.transactions
            start = max(now, self.free[cost.unit][0])
            self.free[cost.unit][0] = start + taken
            self.busy[cost.unit] += taken
            end = start + taken + cost.latency
        elif cost.busy and event.transactions:
            self.free[cost.unit][warp.scheduler] = now + cost.busy
            self.busy[cost.unit] += cost.busy / SCHEDULERS
        if event.transactions:  # else its guard has kept it from writing
            for number in cost.gives:
                warp.ready[number] = end
        if cost.unit == Unit.GLOBAL and self.code[event.number].name == "LDGSTS":
            warp.copies = max(warp.copies, end)

    def go_on(self, now: float, number: int, warp: _Warp, event: Event, cost: Costs) -> None:
        """Find when the warp can issue its next instruction, if its registers alone decide."""
        warp.place += 1
        self.last = max(self.last, now + 1)
        if warp.place == len(warp.sequence):
            self.left[warp.cta] -= 1
            warp.times.append(now + 1)
            self.release(now, warp.cta, 0.0)
            return
        if cost.unit == Unit.BARRIER:
            self.arrived[warp.cta].append(number)
            self.release(now, warp.cta, cost.latency)
            return
        following = now + 1
        if cost.unit == Unit.NONE:
            following = self.copied(following, warp, self.code[event.number])
        upcoming = self.events[warp.sequence[warp.place]].number
        if upcoming != event.number + 1:
            following = now + self.branch
        ready = warp.ready
        for register in self.costs[upcoming].needs:
            if ready[register] > following:
                following = ready[register]
        heapq.heappush(self.queue, (following, number))

    def release(self, now: float, cta: int, latency: float) -> None:
        """Let all go on that wait at a barrier, if there is none to come."""
        if self.arrived[cta] and len(self.arrived[cta]) == self.left[cta]:
            for number in self.arrived[cta]:
                heapq.heappush(self.queue, (now + latency, number))
            self.arrived[cta] = []

    def copied(self, following: float, warp: _Warp, one: Instruction) -> float:
        """Wait for groups of asynchronous copies, all but the last few, where an instruction does so."""
        if one.name == "LDGDEPBAR":
            warp.group.append(warp.copies)
        elif one.name == "DEPBAR":
            done = warp.group[: len(warp.group) - int(one.operands[1], 0)]
            return max([following, *done[-1:]])
        return following


def simulate(trace: Trace, rates: Rates, ctas: int, noted: Sequence[Sequence[int]]) -> Timing:
    """Let as many CTAs of the same kind begin at once on one multiprocessor, and run to their ends.

    ``noted`` are places in what each warp issues: when the first CTA's warps are there, and at their ends, is noted.
    """
    per_cta = len(trace.warps)
    warps = [
        _Warp(sequence, cta, (cta * per_cta + number) % SCHEDULERS, noted[number] if cta == 0 else ())
        for cta in range(ctas)
        for number, sequence in enumerate(trace.warps)
    ]
    multiprocessor = _Multiprocessor(trace, rates, warps)
    multiprocessor.run()
    times = [warp.times for warp in warps[:per_cta]]
    return Timing(multiprocessor.last, times, multiprocessor.busy, multiprocessor.issued)
