"""What instructions of machine code do to whole numbers: moves, sums, products, shifts, bits and choices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .code import Instruction
from .registers import Array, NotUnderstood, Registers, Source, predicate_number, register_number

# Runs an instruction for the threads of a mask, None being everyone.
Operation = Callable[[Array | None], None]

LOW = np.uint64(0xFFFFFFFF)


def target(operand: str) -> int:
    number = register_number(operand)
    if number is None:
        raise NotUnderstood(f"the target {operand}")
    return number


def split(operands: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """Split what follows the first target into predicates that are written too, and the sources."""
    outs = 0
    while predicate_number(operands[1 + outs]) is not None and not operands[1 + outs].startswith("!"):
        outs += 1
    return [number for text in operands[1 : 1 + outs] if (number := predicate_number(text)) is not None], [
        *operands[1 + outs :]
    ]


def computed(registers: Registers, number: int, compute: Source) -> Operation:
    return lambda mask: registers.set(number, compute(), mask)


def constant(registers: Registers, one: Instruction, count: int, value: np.uint32) -> Operation:
    first, values = target(one.operands[0]), np.full(registers.threads, value, np.uint32)

    def run(mask: Array | None) -> None:
        for number in range(count if first % 256 != 255 else 0):
            registers.set(first + number, values, mask)

    return run


def move(registers: Registers, one: Instruction) -> Operation:
    number, wide = target(one.operands[0]), "64" in one.suffixes
    if wide:
        source = registers.wide(one.operands[1])
        return lambda mask: registers.set_wide(number, source(), mask)
    return computed(registers, number, registers.source(one.operands[1]))


def clear_wide(registers: Registers, one: Instruction) -> Operation:
    if one.operands[1] != "SRZ":
        raise NotUnderstood(str(one))
    return constant(registers, one, 1 if "32" in one.suffixes else 2, np.uint32(0))


def add(registers: Registers, one: Instruction) -> Operation:
    """IADD3, VIADD and IADD: with carries out, and with carries in where it is the high half of a number."""
    number = target(one.operands[0])
    outs, texts = split(one.operands)
    if "64" in one.suffixes:
        wide = [registers.wide(text) for text in texts]
        return lambda mask: registers.set_wide(number, sum_of(wide), mask)
    carries = []
    while texts and predicate_number(texts[-1]) is not None:
        carries.append(registers.predicate(texts.pop()))
    sources = [addend(registers, text) for text in texts]

    def run(mask: Array | None) -> None:
        total = sum_of(sources)
        for carry in carries:
            total = total + carry()
        registers.set(number, total.astype(np.uint32), mask)
        for index, out in enumerate(outs):
            registers.set_predicate(out, total >> np.uint64(32) > np.uint64(index), mask)

    return run


def sum_of(sources: list[Source]) -> Array:
    total = sources[0]()
    for source in sources[1:]:
        total = total + source()
    return total


def addend(registers: Registers, text: str) -> Source:
    """Read a number of 33 bits: minus zero carries, as the adder has it."""
    if text.startswith("-") and register_number(text) is not None:
        read = registers.source(text[1:])
        return lambda: np.uint64(1 << 32) - read().astype(np.uint64)
    read = registers.source(text)
    return lambda: read().astype(np.uint64)


def multiply_add(registers: Registers, one: Instruction) -> Operation:
    """IMAD in all its forms."""
    number, suffixes = target(one.operands[0]), one.suffixes
    outs, texts = split(one.operands)
    carry = registers.predicate(texts.pop()) if "X" in suffixes else None
    if not {"WIDE", "HI"} & set(suffixes):
        a, b, c = (registers.source(text) for text in texts)
        if outs:
            raise NotUnderstood(str(one))
        if carry is None:
            return computed(registers, number, lambda: a() * b() + c())
        return computed(registers, number, lambda: a() * b() + c() + carry())
    signed = "U32" not in suffixes
    x, y = (extended(registers.source(text), signed) for text in texts[:2])
    z = registers.wide(texts[2])
    if carry is not None:
        raise NotUnderstood(str(one))

    def run(mask: Array | None) -> None:
        product = x() * y()
        total = product + z()
        if "HI" in suffixes:
            registers.set(number, (total >> np.uint64(32)).astype(np.uint32), mask)
        else:
            registers.set_wide(number, total, mask)
        for out in outs:
            registers.set_predicate(out, total < product, mask)

    return run


def extended(read: Source, signed: bool = True) -> Source:
    """Read a 32-bit number as 64 bits."""
    if signed:
        return lambda: read().view(np.int32).astype(np.int64).view(np.uint64)
    return lambda: read().astype(np.uint64)


def shift_add(registers: Registers, one: Instruction) -> Operation:
    """LEA: a << s plus b; with HI the high half of such a shift."""
    number, suffixes = target(one.operands[0]), one.suffixes
    outs, texts = split(one.operands)
    carry = registers.predicate(texts.pop()) if "X" in suffixes else None
    by = np.uint64(int(texts.pop(), 0))
    low, b = registers.source(texts[0]), registers.source(texts[1])
    if "SX32" in suffixes:
        high: Source = extended(low)
    elif "HI" in suffixes:
        upper = registers.source(texts[2])
        high = lambda: low().astype(np.uint64) | upper().astype(np.uint64) << np.uint64(32)  # noqa: E731
    else:
        high = lambda: low().astype(np.uint64)  # noqa: E731
    shift = np.uint64(32) if "HI" in suffixes else np.uint64(0)

    def run(mask: Array | None) -> None:
        total = ((high() << by >> shift) & LOW) + b()
        if carry is not None:
            total = total + carry()
        registers.set(number, total.astype(np.uint32), mask)
        for out in outs:
            registers.set_predicate(out, total > LOW, mask)

    return run


def shift(registers: Registers, one: Instruction) -> Operation:
    """SHF: of two words, the higher one behind, or of one."""
    number, suffixes = target(one.operands[0]), one.suffixes
    low, by, high = (registers.source(text) for text in one.operands[1:4])
    most = 64 if any("64" in suffix for suffix in suffixes) else 32
    by = limited(by, most, "W" in suffixes)
    upper = np.uint64(32)

    def left() -> Array:
        if most == 32 and "HI" not in suffixes:
            return (low().astype(np.uint64) << by()).astype(np.uint32)
        return ((low().astype(np.uint64) | high().astype(np.uint64) << upper) << by() >> upper).astype(np.uint32)

    def right() -> Array:
        both = low().astype(np.uint64) | high().astype(np.uint64) << upper
        if "HI" in suffixes:
            both = extended(high, "S32" in suffixes or "S64" in suffixes)()
        if "S32" in suffixes or "S64" in suffixes:
            return (both.view(np.int64) >> by().astype(np.int64)).astype(np.uint32)
        return (both >> by()).astype(np.uint32)

    return computed(registers, number, left if "L" in suffixes else right)


def limited(by: Source, most: int, wraps: bool) -> Source:
    if wraps:
        return lambda: (by() % np.uint32(most)).astype(np.uint64)
    return lambda: np.minimum(by(), np.uint32(most)).astype(np.uint64)


def logic(registers: Registers, one: Instruction) -> Operation:
    """LOP3: any function of three words by its table, and whether the result is not zero."""
    operands = list(one.operands)
    out = predicate_number(operands[0])
    if out is not None:
        operands.pop(0)
    number, table = target(operands[0]), int(operands[4], 0)
    a, b, c = (registers.source(text) for text in operands[1:4])
    short = {0xC0: lambda: a() & b(), 0xFC: lambda: a() | b(), 0x3C: lambda: a() ^ b(), 0x33: lambda: ~b()}
    compute = short.get(table) or (lambda: looked_up(table, a(), b(), c()))

    def run(mask: Array | None) -> None:
        value = compute()
        registers.set(number, value, mask)
        if out is not None:
            registers.set_predicate(out, value != 0, mask)

    return run


def looked_up(table: int, a: Array, b: Array, c: Array) -> Array:
    result = np.zeros_like(a)
    for index in range(8):
        if table >> index & 1:
            result |= (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
    return result


def select(registers: Registers, one: Instruction) -> Operation:
    number, choice = target(one.operands[0]), registers.predicate(one.operands[3])
    if "64" in one.suffixes:
        wide = [registers.wide(text) for text in one.operands[1:3]]
        return lambda mask: registers.set_wide(number, np.where(choice(), wide[0](), wide[1]()), mask)
    a, b = (registers.source(text) for text in one.operands[1:3])
    return computed(registers, number, lambda: np.where(choice(), a(), b()))


def extreme(registers: Registers, one: Instruction) -> Operation:
    """Take the smallest where the last operand holds, else the largest; VIADDMNMX adds the first two before."""
    number, choice = target(one.operands[0]), registers.predicate(one.operands[-1])
    texts = [text for text in one.operands[1:-1] if predicate_number(text) is None]
    sources = [registers.source(text) for text in texts]
    if one.name.endswith("ADDMNMX"):
        a, b = sources[:2]
        sources = [lambda: a() + b(), sources[2]]
    kind = np.uint32 if "U32" in one.suffixes else np.int32

    def compute() -> Array:
        values = [source().view(kind) for source in sources]
        smallest, largest = values[0], values[0]
        for value in values[1:]:
            smallest, largest = np.minimum(smallest, value), np.maximum(largest, value)
        return np.where(choice(), smallest, largest).view(np.uint32)

    return computed(registers, number, compute)


def magnitude(registers: Registers, one: Instruction) -> Operation:
    read = registers.source(one.operands[1])
    return computed(registers, target(one.operands[0]), lambda: np.abs(read().view(np.int32)).view(np.uint32))


def permute(registers: Registers, one: Instruction) -> Operation:
    """PRMT: any four of eight bytes, each as it is or its sign."""
    a, c = registers.source(one.operands[1]), registers.source(one.operands[3])
    selector = int(one.operands[2], 0)

    def compute() -> Array:
        both = a().astype(np.uint64) | c().astype(np.uint64) << np.uint64(32)
        result = np.zeros(registers.threads, np.uint32)
        for place in range(4):
            nibble = selector >> 4 * place & 15
            byte = (both >> np.uint64(8 * (nibble & 7)) & np.uint64(255)).astype(np.uint32)
            if nibble & 8:
                byte = (byte >> np.uint32(7)) * np.uint32(255)
            result |= byte << np.uint32(8 * place)
        return result

    return computed(registers, target(one.operands[0]), compute)
