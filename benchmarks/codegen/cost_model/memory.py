"""Memory under a walk through machine code: what shared memory holds, and how many transactions an access takes.

Shared memory is kept, since kernels keep whole numbers in it that decide where they go. Global memory reads as ordinary
numbers. An access to shared memory outside of what the launch has is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .code import Instruction
from .registers import WARP, Array, NotUnderstood, Registers, register_number

BANKS, SECTOR = 32, 32
FILLER = np.uint32(0x3C003C00)  # two halves of 1, or a small float
SHARED = {"LDS", "STS", "LDSM", "STSM"}
GLOBAL = {"LDG", "STG", "LDGSTS"}
LOCAL = {"LDL", "STL"}  # a thread's own memory, for registers that are spilled
ACCESSES = SHARED | GLOBAL | LOCAL
# A sector of which a store writes a part takes as much of the L2 cache as so many that it writes whole: what forward
# passes that stored two bytes a lane took more than predicted, on an H100 (benchmarks/results/h100-2026-11-27): 3.2
# cycles a sector at (512, 49), 3.4 at (256, 49), 4.5 at (2048, 49), where a whole one takes half a cycle.
PARTIAL_SECTOR = 6
# Regions of global memory are so many bytes apart: the number of one is in the upper bits of an address.
REGION_BITS = 36

BRACKETS = re.compile(r"(?:desc\[UR\d+\])?\[([^\]]*)\]")
TERM = re.compile(r"(-?)(U?R(?:\d+|Z))(\.64|\.U32)?(?:\.X(\d+))?|(-?0x[0-9a-f]+)")


@dataclass(frozen=True)
class Access:
    """How many transactions each warp's access takes, 0 where none of its threads takes part, and which region of
    global memory it is to; 0 for shared memory. Of global memory they are sectors, or what takes as long."""

    transactions: list[int]
    region: int


class Memory:
    """The shared memory of one CTA, from address ``start`` on, and accesses of its threads."""

    def __init__(self, registers: Registers, start: int, shared_bytes: int) -> None:
        self._registers = registers
        self._start = start
        self.words = np.zeros((start + shared_bytes + 3) // 4, np.uint32)
        self._spilled: dict[int, Array] = {}

    def access(self, one: Instruction) -> Callable[[Array | None], Access]:
        """Give what an instruction does that accesses memory, for the threads of a mask."""
        texts = [text for text in one.operands if "[" in text]
        if one.name in GLOBAL:
            return self._global(one, texts)
        (text,) = texts
        address = self._address(text)
        if one.name in ("LDSM", "STSM"):
            return self._matrix(one, address)
        if one.name in LOCAL:
            return self._local(one, address)
        return self._shared(one, address)

    def _address(self, text: str) -> Callable[[], Array]:
        brackets = BRACKETS.fullmatch(text)
        if brackets is None:
            raise NotUnderstood(f"the address {text}")
        total, terms = 0, []
        for term in brackets[1].replace(".reuse", "").split("+"):
            match = TERM.fullmatch(term.strip())
            if match is None:
                raise NotUnderstood(f"the address {text}")
            if match[5]:
                total += int(match[5], 16)
            else:
                read = self._registers.wide(match[2]) if match[3] == ".64" else self._registers.source(match[2])
                terms.append((read, np.uint64(int(match[4] or 1))))
        fixed = np.uint64(total & (1 << 64) - 1)

        def compute() -> Array:
            address = np.full(self._registers.threads, fixed, np.uint64)
            for read, by in terms:
                address = address + read().astype(np.uint64) * by
            return address

        return compute

    def _within(self, addresses: Array, size: int, one: Instruction) -> Array:
        offsets = addresses & np.uint64(0xFFFFFFFF)
        if offsets.size and (offsets.min() < self._start or offsets.max() + size > 4 * len(self.words)):
            raise NotUnderstood(f"{one}: outside of shared memory")
        return (offsets >> np.uint64(2)).astype(np.int64)

    def _shared(self, one: Instruction, address: Callable[[], Array]) -> Callable[[Array | None], Access]:
        count = words_of(one)
        stores = one.name == "STS"
        number = register_number(one.operands[1 if stores else 0])
        assert number is not None
        if {"U8", "S8", "S16"} & set(one.suffixes):
            raise NotUnderstood(str(one))
        if "U16" in one.suffixes:
            return self._halves(one, number, address)
        rows = [number if number % 256 == 255 else number + n for n in range(count)]

        def run(mask: Array | None) -> Access:
            taking = np.arange(self._registers.threads) if mask is None else np.flatnonzero(mask)
            words = self._within(address()[taking], 4 * count, one)
            for n, row in enumerate(rows):
                if stores:
                    self.words[words + n] = self._registers.values[row, taking]
                elif row % 256 != 255:
                    self._registers.values[row, taking] = self.words[words + n]
            return Access(self._wavefronts(words, taking, count), 0)

        return run

    def _local(self, one: Instruction, address: Callable[[], Array]) -> Callable[[Array | None], Access]:
        """Spilled registers: words of neighbouring threads lie side by side, so a warp's are one transaction."""
        count, threads = words_of(one), self._registers.threads
        number = register_number(one.operands[1 if one.name == "STL" else 0])
        assert number is not None

        def run(mask: Array | None) -> Access:
            taking = self._registers.everyone if mask is None else mask
            addresses = address()
            for place in np.unique(addresses[taking]):
                for n in range(count):
                    word = self._spilled.setdefault(int(place) // 4 + n, np.zeros(threads, np.uint32))
                    there = taking & (addresses == place)
                    if one.name == "LDL":
                        self._registers.set(number + n, word, there)
                    else:
                        np.copyto(word, self._registers.values[number + n if number % 256 != 255 else 255], where=there)
            return Access([count * int(some) for some in taking.reshape(-1, WARP).any(axis=1)], 0)

        return run

    def _halves(self, one: Instruction, number: int, address: Callable[[], Array]) -> Callable[[Array | None], Access]:
        halves = self.words.view(np.uint16)

        def run(mask: Array | None) -> Access:
            taking = np.arange(self._registers.threads) if mask is None else np.flatnonzero(mask)
            addresses = address()[taking]
            words = self._within(addresses, 2, one)
            at = (addresses & np.uint64(0xFFFFFFFF)).astype(np.int64) // 2
            if one.name == "STS":
                halves[at] = self._registers.values[number, taking]
            elif number % 256 != 255:
                self._registers.values[number, taking] = halves[at]
            return Access(self._wavefronts(words, taking, 1), 0)

        return run

    def _wavefronts(self, words: Array, taking: Array, count: int) -> list[int]:
        """Count, for each warp, how often shared memory is read: once for each further word in one bank.

        Of wide accesses a half or a quarter of the warp is served at a time.
        """
        warps = self._registers.threads // WARP
        result = np.zeros(warps, np.int64)
        lanes, group = taking % WARP, WARP // count
        every = np.concatenate([words + n for n in range(count)])
        part = np.tile(taking // WARP * count + lanes // group, count)
        distinct = np.unique(part * (1 << 32) + every)
        pairs, hits = np.unique((distinct >> 32) * BANKS + distinct % BANKS, return_counts=True)
        worst = np.zeros(warps * count, np.int64)
        np.maximum.at(worst, pairs // BANKS, hits)
        result += worst.reshape(warps, count).sum(axis=1)
        return [int(number) for number in result]

    def _matrix(self, one: Instruction, address: Callable[[], Array]) -> Callable[[Array | None], Access]:
        """LDSM and STSM: each tile is eight rows of sixteen bytes, given by the addresses of eight lanes."""
        count = int(one.suffixes[-1])
        loads, number = one.name == "LDSM", register_number(one.operands[0])
        warps = self._registers.threads // WARP
        filler = np.full(self._registers.threads, FILLER, np.uint32)

        def run(mask: Array | None) -> Access:
            taking = mask if mask is not None else self._registers.everyone
            here = taking.reshape(warps, WARP).any(axis=1)
            rows = self._within(address().reshape(warps, WARP)[here, : 8 * count].ravel(), 16, one) // 4
            tiles = np.sort(rows.reshape(-1, 8), axis=1)
            distinct = np.diff(tiles, axis=1, prepend=-1) != 0
            hits = np.zeros((len(tiles), BANKS // 4), np.int64)
            np.add.at(hits, (np.arange(len(tiles))[:, None], tiles % (BANKS // 4)), distinct)
            transactions = np.zeros(warps, np.int64)
            transactions[here] = hits.max(axis=1).reshape(-1, count).sum(axis=1)
            for n in range(count if loads else 0):
                assert number is not None
                self._registers.set(number + n, filler, mask)
            return Access([int(n) for n in transactions], 0)

        return run

    def _global(self, one: Instruction, texts: list[str]) -> Callable[[Array | None], Access]:
        address, count = self._address(texts[-1]), words_of(one)
        number = register_number(one.operands[0]) if one.name == "LDG" else None
        filler = np.full(self._registers.threads, FILLER, np.uint32)
        warps = self._registers.threads // WARP

        def run(mask: Array | None) -> Access:
            taking = np.arange(self._registers.threads) if mask is None else np.flatnonzero(mask)
            addresses = address()[taking]
            regions = np.unique(addresses >> np.uint64(REGION_BITS))
            if len(regions) != 1 or not regions[0]:
                raise NotUnderstood(f"{one}: an address in no tensor")
            sectors = (addresses // np.uint64(SECTOR)).astype(np.int64)
            first = taking // WARP * (1 << 45)
            found, lanes = np.unique(first + (sectors & (1 << 45) - 1), return_counts=True)
            in_part = lanes * bytes_of(one) < SECTOR
            weights = np.where(in_part, PARTIAL_SECTOR, 1) if one.name == "STG" else None
            transactions = np.bincount(found >> 45, weights, warps)
            for n in range(count if number is not None and number % 256 != 255 else 0):
                assert number is not None
                self._registers.set(number + n, filler, mask)
            return Access([int(n) for n in transactions], int(regions[0]))

        return run


def words_of(one: Instruction) -> int:
    """How many words of 32 bits each thread takes."""
    return next((int(suffix) // 32 for suffix in one.suffixes if suffix in ("64", "128")), 1)


def bytes_of(one: Instruction) -> int:
    """How many bytes each thread takes."""
    parts = [int(suffix[1:]) // 8 for suffix in one.suffixes if suffix in ("U8", "S8", "U16", "S16")]
    return parts[0] if parts else 4 * words_of(one)
