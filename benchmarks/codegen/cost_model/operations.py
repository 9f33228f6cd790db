"""What an instruction of machine code does, by its name, as far as that decides where a kernel goes.

NVIDIA documents no meaning of machine code; this is what it is publicly known to be, and a test holds the number of
products of a walk against that of the emulated source. Floats are not computed: what a float instruction gives is 1,
an ordinary number that takes no special path. Divisions of whole numbers pass through floats, by conversions and a
reciprocal that are computed. An instruction without a meaning here is an error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import conditions, integers
from .code import Instruction
from .integers import Operation, computed, constant, target
from .registers import WARP, Array, NotUnderstood, Registers, predicate_number

Builder = Callable[[Registers, Instruction], Operation]

ONE, TWO_HALVES_OF_ONE = np.uint32(0x3F800000), np.uint32(0x3C003C00)
# Registers that a float instruction writes.
FLOATS = {
    "FADD": 1, "FMUL": 1, "FFMA": 1, "FMNMX": 1, "FMNMX3": 1, "HADD2": 1, "HFMA2": 1, "HMUL2": 1, "HMNMX2": 1,
    "HMMA": 4, "FRND": 1, "F2F": 1, "FADD2": 2, "FMUL2": 2, "FFMA2": 2,
}  # fmt: skip


def operation(registers: Registers, instruction: Instruction) -> Operation:
    """Give what an instruction does that neither accesses memory nor decides what comes next.

    Raises:
        NotUnderstood: it has no meaning here.
    """
    name = instruction.name
    of_threads = name.removeprefix("U")  # a uniform instruction does the same once for a warp
    if (words := FLOATS.get(name) or FLOATS.get(of_threads)) is not None:
        return constant(registers, instruction, words, ONE)
    builder = BUILDERS.get(name) or BUILDERS.get(of_threads)
    if builder is None:
        raise NotUnderstood(str(instruction))
    try:
        return builder(registers, instruction)
    except (ValueError, IndexError, KeyError) as error:
        raise NotUnderstood(f"{instruction}: {error!r}") from error


def select_float(registers: Registers, one: Instruction) -> Operation:
    """FSEL: one of two ordinary numbers."""
    return constant(registers, one, 1, ONE)


def to_float(registers: Registers, one: Instruction) -> Operation:
    read = registers.source(one.operands[1])
    kind = np.uint32 if "U32" in one.suffixes or "RP" in one.suffixes else np.int32
    return computed(registers, target(one.operands[0]), lambda: read().view(kind).astype(np.float32).view(np.uint32))


def to_integer(registers: Registers, one: Instruction) -> Operation:
    read = registers.source(one.operands[1])

    def compute() -> Array:
        value = np.nan_to_num(np.trunc(read().view(np.float32).astype(np.float64)), posinf=2.0**32)
        return np.clip(value, 0, 2.0**32 - 1).astype(np.uint64).astype(np.uint32)

    if "U32" not in one.suffixes:
        raise NotUnderstood(str(one))
    return computed(registers, target(one.operands[0]), compute)


def special_function(registers: Registers, one: Instruction) -> Operation:
    if "RCP" not in one.suffixes:
        return constant(registers, one, 1, ONE)
    read = registers.source(one.operands[1])

    def compute() -> Array:
        with np.errstate(divide="ignore", over="ignore"):
            return (np.float32(1) / read().view(np.float32)).view(np.uint32)

    return computed(registers, target(one.operands[0]), compute)


def of_first_lane(registers: Registers, one: Instruction) -> Operation:
    """R2UR: a register of the warp from that of its first thread that takes part."""
    read, number = registers.source(one.operands[1]), target(one.operands[0])

    def run(mask: Array | None) -> None:
        by_warp = read().reshape(-1, WARP)
        first = np.zeros(len(by_warp), int) if mask is None else mask.reshape(-1, WARP).argmax(axis=1)
        registers.set(number, np.repeat(by_warp[np.arange(len(by_warp)), first], WARP), mask)

    return run


def shuffle(registers: Registers, one: Instruction) -> Operation:
    out, number = predicate_number(one.operands[0]), target(one.operands[1])
    read, by = registers.source(one.operands[2]), registers.source(one.operands[3])
    threads = np.arange(registers.threads)
    always = registers.everyone
    if one.suffixes[0] not in ("BFLY", "IDX"):
        raise NotUnderstood(str(one))

    def run(mask: Array | None) -> None:
        lane = threads % WARP ^ by() if one.suffixes[0] == "BFLY" else by()
        registers.set(number, read()[threads // WARP * WARP + (lane & np.uint32(WARP - 1))], mask)
        assert out is not None
        registers.set_predicate(out, always, mask)

    return run


def nothing(registers: Registers, one: Instruction) -> Operation:
    return lambda mask: None


BUILDERS: dict[str, Builder] = {
    "MOV": integers.move, "CS2R": integers.clear_wide, "IADD3": integers.add, "VIADD": integers.add,
    "IADD": integers.add, "IMAD": integers.multiply_add, "LEA": integers.shift_add, "SHF": integers.shift,
    "LOP3": integers.logic, "SEL": integers.select, "IMNMX": integers.extreme, "VIMNMX": integers.extreme,
    "VIMNMX3": integers.extreme, "VIADDMNMX": integers.extreme, "IABS": integers.magnitude, "PRMT": integers.permute,
    "PLOP3": conditions.logic_of_predicates, "ISETP": conditions.compare, "FSETP": conditions.compare,
    "P2R": conditions.pack_predicates, "P2UR": conditions.pack_predicates, "R2P": conditions.unpack_predicates,
    "R2UP": conditions.unpack_predicates, "FCHK": conditions.no_scaling,
    "VOTE": conditions.vote, "VOTEU": conditions.vote,
    "FSEL": select_float, "I2F": to_float, "I2FP": to_float, "F2I": to_integer, "MUFU": special_function,
    "R2UR": of_first_lane, "SHFL": shuffle, "NOP": nothing, "DEPBAR": nothing, "LDGDEPBAR": nothing,
    "F2FP": lambda registers, one: constant(registers, one, 1, TWO_HALVES_OF_ONE),
}  # fmt: skip
