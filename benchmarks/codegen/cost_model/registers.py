"""What the threads of a CTA hold while machine code is walked through: registers and predicates, and their names.

All threads of a CTA are one vector. Registers of a warp, which the assembler calls uniform, are kept for each of its
threads; so one way to compute serves both kinds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Source = Callable[[], Array]

WARP = 32
ZERO, UNIFORM, UNIFORM_ZERO, ALL = 255, 256, 511, 512  # numbers of registers; of predicates:
TRUE, UNIFORM_PREDICATE, UNIFORM_TRUE, ALL_PREDICATES = 7, 8, 15, 16

REGISTER = re.compile(r"(U?)R(\d+|Z)(?:\.64|\.U32|\.X\d+|\.H[01]_H[01]|\.B[0-3])*")
PREDICATE = re.compile(r"(U?)P(\d|T)")
# A constant by its bank and place in it: a number, or a register and a number.
CONSTANT = re.compile(r"c\[(0x[0-9a-f]+)\]\[(?:(U?R(?:\d+|Z))\+?)?(-?0x[0-9a-f]+)?\]")
Constants = Callable[[int, int, int], int]


class NotUnderstood(Exception):
    """Machine code that the walk has no meaning for; a prediction without it would be a guess."""


def plain(operand: str) -> str:
    """Strip an operand of sign, bars and hints."""
    return operand.replace(".reuse", "").strip().strip("-!~|+")


def register_number(operand: str) -> int | None:
    """Give the number of a register, uniform ones behind the others; None for what is none."""
    match = REGISTER.fullmatch(plain(operand))
    if match is None:
        return None
    if match[2] == "Z":
        return UNIFORM_ZERO if match[1] else ZERO
    return int(match[2]) + (UNIFORM if match[1] else 0)


def predicate_number(operand: str) -> int | None:
    match = PREDICATE.fullmatch(plain(operand))
    if match is None:
        return None
    number = TRUE if match[2] == "T" else int(match[2])
    return number + (UNIFORM_PREDICATE if match[1] else 0)


class Registers:
    """Registers and predicates of all threads of a CTA, and a function that reads constants.

    That is given their bank, their place in it and their size in bytes.
    """

    def __init__(self, threads: int, constants: Constants) -> None:
        self.threads = threads
        self.constants = constants
        self.values = np.zeros((ALL, threads), np.uint32)
        self.predicates = np.zeros((ALL_PREDICATES, threads), bool)
        self.predicates[[TRUE, UNIFORM_TRUE]] = True
        self.everyone = np.ones(threads, bool)

    def source(self, operand: str) -> Source:
        """Give a function that reads a 32-bit operand of whole numbers, of all threads."""
        text = operand.replace(".reuse", "").strip()
        negative, inverted, absolute = text.startswith("-"), text.startswith("~"), "|" in text
        read = self._unsigned(plain(text))
        if absolute:
            return lambda: read() & np.uint32(0x7FFFFFFF)
        if negative:
            return lambda: np.uint32(0) - read()
        return (lambda: ~read()) if inverted else read

    def _unsigned(self, text: str) -> Source:
        number = register_number(text)
        if number is not None:
            row = self.values[number]
            return lambda: row
        value = np.full(self.threads, self._fixed(text, 4), np.uint32)
        return lambda: value

    def _fixed(self, text: str, size: int) -> int:
        constant = CONSTANT.fullmatch(text)
        if constant is not None and constant[2] in (None, "RZ", "URZ"):
            return self.constants(int(constant[1], 16), int(constant[3] or "0", 16), size)
        try:
            return int(text, 0)
        except ValueError:
            raise NotUnderstood(f"the operand {text}") from None

    def wide(self, operand: str) -> Source:
        """Read a 64-bit operand: a register and the next, or a number."""
        text = operand.replace(".reuse", "").strip()
        number, negative = register_number(text), text.startswith("-")
        if number is None:
            fixed = self._fixed(plain(text), 8) & (1 << 64) - 1
            value = np.full(self.threads, (-fixed if negative else fixed) & (1 << 64) - 1, np.uint64)
            return lambda: value
        if number in (ZERO, UNIFORM_ZERO):
            zero = np.zeros(self.threads, np.uint64)
            return lambda: zero
        low, high = self.values[number], self.values[number + 1]
        if negative:
            return lambda: np.uint64(0) - (low | high.astype(np.uint64) << np.uint64(32))
        return lambda: low | high.astype(np.uint64) << np.uint64(32)

    def predicate(self, operand: str) -> Source:
        number = predicate_number(operand)
        if number is None:
            raise NotUnderstood(f"the predicate {operand}")
        row = self.predicates[number]
        return (lambda: ~row) if operand.startswith("!") else (lambda: row)

    def set(self, number: int, value: Array, mask: Array | None) -> None:
        """Write a register; a uniform one for the whole of each warp that takes part. No mask is everyone."""
        if number in (ZERO, UNIFORM_ZERO):
            return
        self._write(self.values[number], value, mask, number >= UNIFORM)

    def set_wide(self, number: int, value: Array, mask: Array | None) -> None:
        if number in (ZERO, UNIFORM_ZERO):
            return
        self.set(number, value.astype(np.uint32), mask)
        self.set(number + 1, (value >> np.uint64(32)).astype(np.uint32), mask)

    def set_predicate(self, number: int, value: Array, mask: Array | None) -> None:
        if number in (TRUE, UNIFORM_TRUE):
            return
        self._write(self.predicates[number], value, mask, number >= UNIFORM_PREDICATE)

    def _write(self, row: Array, value: Array, mask: Array | None, uniform: bool) -> None:
        if mask is None:
            row[:] = value
        else:
            np.copyto(row, value, where=whole_warps(mask) if uniform else mask)


def whole_warps(mask: Array) -> Array:
    """All threads of those warps of which one is in the mask."""
    return np.repeat(mask.reshape(-1, WARP).any(axis=1), WARP)
