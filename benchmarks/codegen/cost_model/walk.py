"""A walk through a kernel's machine code, as one CTA takes it: what each warp issues, in order.

The walk is that of a GPU, but that threads take turns: those that are furthest behind go first, together with all that
are at the same instruction, up to where they part. Threads of a warp that have parted meet again where the machine code
says so. Nothing is known of the kernel but its code, its arguments and the size of its CTA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .code import INSTRUCTION_BYTES, Instruction
from .memory import ACCESSES, Access, Memory, words_of
from .operations import operation
from .registers import (
    CONSTANT,
    WARP,
    Array,
    Constants,
    NotUnderstood,
    Registers,
    predicate_number,
    register_number,
)

FAR = 1 << 30
MOST_TURNS = 2_000_000  # forty times those of the longest kernel that there is
NOT_WAITING, AT_MEETING, AT_BARRIER = 0, 1, 2
MEETINGS, WHOLE_WARP = 17, 16  # BSSY knows 16 places; the last is that of WARPSYNC
CONTROL = {"BRA", "BRX", "BRXU", "BSSY", "BREAK", "BSYNC", "WARPSYNC", "BAR", "EXIT", "CALL", "RET"}
# There is one CTA, the first.
NUMBER_OF_CTA = ("SR_CTAID.X", "SR_CTAID.Y", "SR_CTAID.Z", "SR_CgaCtaId")
# In the bank of constants, by first architecture: where arguments begin, and where the numbers of threads and of CTAs
# are. Before sm_90 the system keeps none of shared memory for itself at its start.
BANKS = ((100, 0x380, 0x360, 0x370), (90, 0x210, 0x0, 0xC), (80, 0x160, 0x0, 0xC))
FIRST_WITH_RESERVE, RESERVE = 90, 0x400


@dataclass(frozen=True)
class Event:
    """An instruction as a warp issues it: its number in the code, and for memory its transactions and their region."""

    number: int
    transactions: int = 1
    region: int = 0


@dataclass
class Trace:
    """What each warp issues, by numbers of events; the first events are those of the instructions themselves."""

    instructions: list[Instruction]
    events: list[Event] = field(default_factory=list)
    warps: list[list[int]] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many instructions of the code are issued at least once."""
        return len({self.events[number].number for warp in self.warps for number in set(warp)})


def constants(arch: int, arguments: bytes, tables: Mapping[int, bytes], threads: int) -> Constants:
    """Give a function that reads constants: those of the launch in bank 0, those of the code in others."""
    _, first, cta, grid = next(bank for bank in BANKS if arch >= bank[0])
    known = {cta: threads, **dict.fromkeys((cta + 4, cta + 8, grid, grid + 4, grid + 8), 1)}

    def read(bank: int, offset: int, size: int) -> int:
        start, content = (first, arguments) if bank == 0 else (0, tables.get(bank, b""))
        if start <= offset and offset + size <= start + len(content):
            return int.from_bytes(content[offset - start : offset - start + size], "little")
        if offset < start:
            return known.get(offset, 0)  # the others, such as the start of the stack, lead nowhere
        raise NotUnderstood(f"c[{bank:#x}][{offset:#x}], behind what there is")

    return read


class Walk:
    """One CTA of a kernel, from its first instruction to the last."""

    def __init__(
        self,
        code: Sequence[Instruction],
        arch: int,
        arguments: bytes,
        threads: int,
        shared_bytes: int,
        tables: Mapping[int, bytes] | None = None,
    ) -> None:
        self.registers = Registers(threads, constants(arch, arguments, tables or {}, threads))
        self.memory = Memory(self.registers, RESERVE if arch >= FIRST_WITH_RESERVE else 0, shared_bytes)
        self.code = list(code)
        self.at = {one.address: number for number, one in enumerate(self.code)}
        self.trace = Trace(self.code, [Event(number) for number in range(len(self.code))])
        self.trace.warps = [[] for _ in range(threads // WARP)]
        self._interned: dict[Event, int] = {}
        self._steps: list[Callable[[Array | None], Access | None] | None] = [None] * len(self.code)
        self._pc = np.zeros(threads, np.int64)
        self._waiting = np.zeros(threads, np.int8)
        self._gone = np.zeros(threads, bool)
        self._members = np.zeros((MEETINGS, threads), bool)
        self._arrived = np.zeros((MEETINGS, threads), bool)

    def run(self) -> Trace:
        """Walk to the end.

        Raises:
            NotUnderstood: an instruction has no meaning here, threads wait for others that never come, or there is no
                end.
        """
        turns = 0
        while not self._gone.all():
            turns += 1
            if turns > MOST_TURNS:
                raise NotUnderstood("a kernel that comes to no end")
            able = (self._waiting == NOT_WAITING) & ~self._gone
            if not able.any():
                self._pass_barrier()
                continue
            places = np.where(able, self._pc, FAR)
            lowest = int(places.min())
            mask = places == lowest
            ahead = places[places > lowest]
            self._straight(lowest, int(ahead.min()) if ahead.size else FAR, mask)
        return self.trace

    def _straight(self, number: int, limit: int, mask: Array) -> None:
        """Walk on until the next instruction that decides where to go, or until others are reached."""
        everyone = bool(mask.all())
        warps = [int(warp) for warp in np.flatnonzero(mask.reshape(-1, WARP).any(axis=1))]
        some = None if everyone else mask
        start = number
        while number < limit:
            one = self.code[number]
            if one.name in CONTROL:
                self._record(start, number + 1, warps)
                self._control(number, one, mask)
                return
            step = self._steps[number]
            if step is None:
                step = self._steps[number] = self._step(one)
            access = step(some)
            if access is not None:
                self._record(start, number, warps)
                for warp in warps:
                    self.trace.warps[warp].append(self._event(number, access, warp))
                start = number + 1
            number += 1
        self._record(start, number, warps)
        self._pc[mask] = number

    def _record(self, start: int, end: int, warps: list[int]) -> None:
        if start < end:
            for warp in warps:
                self.trace.warps[warp].extend(range(start, end))

    def _event(self, number: int, access: Access, warp: int) -> int:
        event = Event(number, access.transactions[warp], access.region)
        if event not in self._interned:
            self._interned[event] = len(self.trace.events)
            self.trace.events.append(event)
        return self._interned[event]

    def _step(self, one: Instruction) -> Callable[[Array | None], Access | None]:
        """Give what an instruction does, behind its guard."""
        step: Callable[[Array | None], Access | None]
        if one.name in ACCESSES:
            step = self.memory.access(one)
        elif one.name in ("S2R", "S2UR", "LDC", "ULDC", "LDCU"):
            step = self._load(one)
        else:
            step = operation(self.registers, one)
        if not one.guard:
            return step
        if one.name == "HMMA":
            return self._guarded_product(one, step)
        guard = self.registers.predicate(one.guard)
        idle = Access([0] * len(self.trace.warps), 0) if one.name in ACCESSES else None

        def guarded(mask: Array | None) -> Access | None:
            taking = guard() if mask is None else guard() & mask
            if taking.all():
                return step(None)
            return step(taking) if taking.any() else idle

        return guarded

    def _guarded_product(
        self, one: Instruction, step: Callable[[Array | None], Access | None]
    ) -> Callable[[Array | None], Access]:
        """Give a product that a guard decides on, for a whole warp at a time: a transaction, or none where it is off.

        Off, it takes an issue slot and waits for its registers, like every instruction, but no time of the tensor
        cores: as with all units, no thread is left to work for. NVIDIA does not document that; it is an assumption.
        """
        guard = self.registers.predicate(one.guard)

        def run(mask: Array | None) -> Access:
            taking = guard() if mask is None else guard() & mask
            by_warp = taking.reshape(-1, WARP)
            multiplies = by_warp.any(axis=1)
            if (multiplies != by_warp.all(axis=1)).any():
                raise NotUnderstood(f"{one}: a product of a part of a warp")
            if multiplies.any():
                step(taking)
            return Access([int(warp) for warp in multiplies], 0)

        return run

    def _load(self, one: Instruction) -> Callable[[Array | None], None]:
        """Give what tells a thread its number, or a constant."""
        number = register_number(one.operands[0])
        assert number is not None
        threads = np.arange(self.registers.threads, dtype=np.uint32)
        values: list[Array] = []
        if one.name in ("S2R", "S2UR"):
            known = {"SR_TID.X": threads, "SR_LANEID": threads % WARP}
            known |= dict.fromkeys(NUMBER_OF_CTA, np.zeros_like(threads))
            if one.operands[1] not in known:
                raise NotUnderstood(str(one))
            values.append(known[one.operands[1]].astype(np.uint32))
        else:
            constant = CONSTANT.fullmatch(one.operands[1])
            if constant is None:
                raise NotUnderstood(str(one))
            return self._load_constant(one, number, constant)

        def run(mask: Array | None) -> None:
            for n, value in enumerate(values):
                self.registers.set(number + n, value, mask)

        return run

    def _load_constant(self, one: Instruction, number: int, constant: re.Match[str]) -> Callable[[Array | None], None]:
        """Read a constant, or one of a table by a number in a register."""
        size = next((bytes_ for suffix, bytes_ in (("U8", 1), ("U16", 2)) if suffix in one.suffixes), 4)
        bank, offset = int(constant[1], 16), int(constant[3] or "0", 16)
        read = self.registers.constants
        index = self.registers.source(constant[2] or "RZ")

        def run(mask: Array | None) -> None:
            taking = self.registers.everyone if mask is None else mask
            places = [int(place) for place in np.unique(index()[taking])]
            for n in range(words_of(one)):
                values = [read(bank, offset + 4 * n + place, size) for place in places]
                found = np.searchsorted(places, index()) % len(places)
                self.registers.set(number + n, np.array(values, np.uint32)[found], mask)

        return run

    def _control(self, number: int, one: Instruction, mask: Array) -> None:
        """Send the threads of a mask on from an instruction that decides where to go."""
        taking = mask & self.registers.predicate(one.guard)() if one.guard else mask
        self._pc[mask] = number + 1
        if one.name == "BRA":
            self._branch(one, taking)
        elif one.name in ("BRX", "BRXU"):
            register, offset = one.operands[0].split()
            there = self.registers.source(register)()[taking].astype(np.int64)
            following = self.code[number].address + INSTRUCTION_BYTES
            self._pc[taking] = [self.at[int(place) + int(offset, 16) + following] for place in there]
        elif one.name == "BSSY":
            place = int(one.operands[0].removeprefix("B"))
            here = np.repeat(taking.reshape(-1, WARP).any(axis=1), WARP)
            self._members[place][here] = taking[here]
        elif one.name == "BREAK":
            place = int(one.operands[-1].removeprefix("B"))
            self._members[place][taking] = False
            self._release(place)
        elif one.name == "BSYNC":
            self._meet(int(one.operands[0].removeprefix("B")), taking)
        elif one.name == "WARPSYNC" and "COLLECTIVE" not in one.suffixes:
            self._members[WHOLE_WARP] = True
            self._meet(WHOLE_WARP, taking)
        elif one.name == "BAR" and one.suffixes[:1] == ("SYNC",):
            self._waiting[taking] = AT_BARRIER
        elif one.name == "EXIT":
            self._gone |= taking
            for place in range(MEETINGS):
                self._release(place)
        elif one.name == "CALL":
            self._pc[taking] = self._target(one.operands[0])
        elif one.name == "RET":
            register = self.registers.source(one.operands[0].split()[0])()
            self._pc[taking] = [self.at[int(address)] for address in register[taking]]
        else:
            raise NotUnderstood(str(one))

    def _target(self, operand: str) -> int:
        return self.at[int(operand.removeprefix("`").strip("()"), 16)]

    def _branch(self, one: Instruction, taking: Array) -> None:
        to = self._target(one.operands[-1])
        if {"DIV", "CONV"} & set(one.suffixes):  # where not the whole warp is there, or where it is
            whole = np.repeat(taking.reshape(-1, WARP).all(axis=1), WARP)
            taking = taking & (whole if "CONV" in one.suffixes else ~whole)
        else:
            for condition in one.operands[:-1]:
                if predicate_number(condition) is None:
                    raise NotUnderstood(str(one))
                taking = taking & self.registers.predicate(condition)()
        self._pc[taking] = to

    def _meet(self, place: int, mask: Array) -> None:
        self._arrived[place] |= mask
        self._waiting[mask] = AT_MEETING
        self._release(place)

    def _release(self, place: int) -> None:
        """Let those warps go on of which everyone that is still to come has come."""
        missing = self._members[place] & ~self._arrived[place] & ~self._gone
        complete = np.repeat(~missing.reshape(-1, WARP).any(axis=1), WARP) & self._arrived[place]
        self._waiting[complete] = NOT_WAITING
        self._arrived[place][complete] = False

    def _pass_barrier(self) -> None:
        if not ((self._waiting == AT_BARRIER) | self._gone).all():
            raise NotUnderstood("threads wait for others of their warp that never come")
        self._waiting[:] = NOT_WAITING
