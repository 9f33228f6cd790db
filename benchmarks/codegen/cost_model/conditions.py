"""What instructions of machine code do to predicates: comparisons, and what is made of their results."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from .code import Instruction
from .integers import Operation, computed, looked_up, target
from .registers import (
    UNIFORM_PREDICATE,
    WARP,
    Array,
    NotUnderstood,
    Registers,
    Source,
    predicate_number,
    register_number,
)

COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
# How a comparison is joined with a predicate.
JOINS: dict[str, Callable[[Array, Array], Array]] = {"AND": operator.and_, "OR": operator.or_, "XOR": operator.xor}


def logic_of_predicates(registers: Registers, one: Instruction) -> Operation:
    """PLOP3: two functions of three predicates by their tables."""
    outs = [predicate_number(text) for text in one.operands[:2]]
    a, b, c = (registers.predicate(text) for text in one.operands[2:5])
    tables = [int(text, 0) for text in one.operands[5:7]]

    def run(mask: Array | None) -> None:
        values = [looked_up(table, a(), b(), c()) for table in tables]
        for out, value in zip(outs, values, strict=True):
            assert out is not None
            registers.set_predicate(out, value, mask)

    return run


def compare(registers: Registers, one: Instruction) -> Operation:
    """ISETP and FSETP: a comparison, joined with a predicate; EX is the high half of one, behind the low half."""
    first, second = (predicate_number(text) for text in one.operands[:2])
    suffixes = one.suffixes
    joined = registers.predicate(one.operands[4])
    below = registers.predicate(one.operands[5]) if "EX" in suffixes else None
    join = next((JOINS[suffix] for suffix in suffixes if suffix in JOINS), operator.and_)
    found = float_comparison(registers, one) if one.name.endswith("FSETP") else integers(registers, one, below)
    assert first is not None
    assert second is not None

    def run(mask: Array | None) -> None:
        holds, other = found(), joined()
        registers.set_predicate(first, join(holds, other), mask)
        registers.set_predicate(second, join(~holds, other), mask)

    return run


def integers(registers: Registers, one: Instruction, below: Source | None) -> Source:
    relation, suffixes = one.suffixes[0], one.suffixes
    holds = COMPARISONS[relation]
    if "S64" in suffixes or "U64" in suffixes:
        x, y = (registers.wide(text) for text in one.operands[2:4])
        kind: type[np.generic] = np.int64 if "S64" in suffixes else np.uint64
    else:
        x, y = (registers.source(text) for text in one.operands[2:4])
        kind = np.uint32 if "U32" in suffixes else np.int32
    if below is None:
        return lambda: holds(x().view(kind), y().view(kind))
    strict = COMPARISONS[relation if relation in ("EQ", "NE") else relation[0] + "T"]

    def both_halves() -> Array:
        a, b = x().view(kind), y().view(kind)
        if relation == "EQ":
            return (a == b) & below()
        return strict(a, b) | ((a == b) & below())

    return both_halves


def float_comparison(registers: Registers, one: Instruction) -> Source:
    x, y = (float_source(registers, text) for text in one.operands[2:4])
    relation = one.suffixes[0]
    if relation in ("NAN", "NUM"):
        return lambda: (np.isnan(x()) | np.isnan(y())) ^ (relation == "NUM")
    holds = COMPARISONS[relation.removesuffix("U")]
    if relation.endswith("U"):  # or one is no number
        return lambda: holds(x(), y()) | np.isnan(x()) | np.isnan(y())
    return lambda: holds(x(), y())


def float_source(registers: Registers, text: str) -> Source:
    bare = text.replace(".reuse", "").strip(" |-+")
    sign = np.float32(-1 if text.strip().startswith("-") else 1)
    if register_number(bare) is None and not bare.startswith("c["):
        value = np.full(registers.threads, float(bare) * sign, np.float32)
        return lambda: value
    read = registers.source(bare)
    if "|" in text:
        return lambda: np.abs(read().view(np.float32)) * sign
    return lambda: read().view(np.float32) * sign


def pack_predicates(registers: Registers, one: Instruction) -> Operation:
    """P2R: the predicates of a mask as bits of a byte, beside the other bits of a word."""
    kept, first = registers.source(one.operands[2]), first_of(one.operands[1])
    by = np.uint32(8 * byte_of(".".join(one.suffixes)))
    bits = np.uint32(int(one.operands[3], 0)) << by

    def compute() -> Array:
        word = np.zeros(registers.threads, np.uint32)
        for number in range(7):
            word |= registers.predicates[first + number].astype(np.uint32) << np.uint32(number)
        return (word << by & bits) | (kept() & ~bits)

    return computed(registers, target(one.operands[0]), compute)


def byte_of(text: str) -> int:
    """Which byte of a word is named, as in ``R5.B2``: the lowest where none is."""
    return next((number for number in range(4) if f"B{number}" in text), 0)


def vote(registers: Registers, one: Instruction) -> Operation:
    """VOTE: which threads of the warp a predicate holds for, as bits, and whether for any or all of them."""
    *outs, text = one.operands
    holds, of_all = registers.predicate(text), one.suffixes[:1] == ("ALL",)
    if not of_all and one.suffixes[:1] != ("ANY",):
        raise NotUnderstood(str(one))
    bits = np.uint32(1) << np.arange(WARP, dtype=np.uint32)

    def run(mask: Array | None) -> None:
        taking = (registers.everyone if mask is None else mask).reshape(-1, WARP)
        for_whom = holds().reshape(-1, WARP) & taking
        decided = (for_whom == taking).all(axis=1) if of_all else for_whom.any(axis=1)
        for out in outs:
            predicate = predicate_number(out)
            if predicate is not None:
                registers.set_predicate(predicate, np.repeat(decided, WARP), mask)
            else:
                ballot = (for_whom * bits).sum(axis=1, dtype=np.uint32)
                registers.set(target(out), np.repeat(ballot, WARP), mask)

    return run


def first_of(operand: str) -> int:
    """Give the number of the first predicate: of the thread's own, or of its warp's."""
    return {"PR": 0, "UPR": UNIFORM_PREDICATE}[operand]


def unpack_predicates(registers: Registers, one: Instruction) -> Operation:
    """R2P: the other way."""
    read, bits = registers.source(one.operands[1]), int(one.operands[2], 0)
    first, by = first_of(one.operands[0]), 8 * byte_of(one.operands[1])

    def run(mask: Array | None) -> None:
        for number in range(7):
            if bits >> number & 1:
                bit = read() >> np.uint32(by + number) & np.uint32(1)
                registers.set_predicate(first + number, bit.astype(bool), mask)

    return run


def no_scaling(registers: Registers, one: Instruction) -> Operation:
    """FCHK: whether a division of floats needs its long way; that of ordinary numbers does not."""
    number, never = predicate_number(one.operands[0]), np.zeros(registers.threads, bool)
    assert number is not None
    return lambda mask: registers.set_predicate(number, never, mask)
