"""Registers, stack and instructions of a kernel and of its loops, from what cuobjdump prints of its machine code."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

from .gate import Figures

# An instruction in the assembler's listing: behind its address and predicate, up to its first dot.
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)([^;]*)", re.MULTILINE)
TENSOR_CORE = re.compile(r"HMMA|HGMMA|UTC\w*MMA")
# What a loop of products is counted for: barriers of the block, waits for products on their own, shared memory, and
# registers that are spilled.
BARRIER, WAIT = {"BAR"}, re.compile(r"WARPGROUP\.DEPBAR|SYNCS\.PHASECHK")
SHARED_MEMORY = {"LDS", "LDSM", "STS", "STSM"}
SPILL = {"LDL", "STL"}
# Loads from global memory, and by the suffix of one how many bytes each thread takes.
GLOBAL_LOAD = {"LDG", "LDGSTS"}
WIDTH = re.compile(r"\.([US]8|[US]16|64|128)\b")
BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")

# Address, name, and what follows it: suffixes and operands.
Instruction = tuple[int, str, str]


def counted(listing: str) -> Figures:
    """Read registers, stack and instructions from what cuobjdump prints of a program.

    Raises:
        RuntimeError: it prints something else.
    """
    found = instructions(listing)
    resources, counts = RESOURCES.search(listing), Counter(name for _, name, _ in found)
    if resources is None or not counts:
        raise RuntimeError("no resource usage, or no instruction, in what cuobjdump printed")
    return Figures(
        registers=int(resources[1]),
        stack=int(resources[2]),
        loads=counts["LDL"],
        stores=counts["STL"],
        tensor_cores={name: count for name, count in counts.items() if TENSOR_CORE.fullmatch(name)},
        ldsm=counts["LDSM"],
        traps=counts["BPT"],
        instructions=sum(counts.values()) - counts["NOP"],
        loops=tuple(product_loops(found)),
    )


def instructions(listing: str) -> list[Instruction]:
    return [(int(address, 16), name, rest) for address, name, rest in INSTRUCTION.findall(listing)]


def product_loops(found: Sequence[Instruction]) -> Iterator[dict[str, int]]:
    """Count, for each innermost loop with products on tensor cores, the instructions of a trip by kind.

    A trip is as the assembler left it, unrolled or not: its products say of how many steps of the sum it is.
    """
    spans = [
        (int(target[1], 16), address)
        for address, name, rest in found
        if name == "BRA" and (target := re.search(r"\b0x([0-9a-f]+)", rest)) and int(target[1], 16) <= address
    ]
    addresses = [address for address, _, _ in found]
    products = [address for address, name, _ in found if TENSOR_CORE.fullmatch(name)]
    loops = {span for span in spans if bisect_left(products, span[0]) < bisect_right(products, span[1])}
    for start, end in sorted(loops):
        if not any(start <= other[0] and other[1] <= end and other != (start, end) for other in loops):
            body = found[bisect_left(addresses, start) : bisect_right(addresses, end)]
            yield counted_kinds([(name, rest) for _, name, rest in body])


def counted_kinds(body: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Count the instructions of those kinds that say what a trip waits for; global loads by their bytes."""
    counts: Counter[str] = Counter()
    for name, rest in body:
        if TENSOR_CORE.fullmatch(name) or name in BARRIER | SHARED_MEMORY | SPILL:
            counts[name] += 1
        elif WAIT.match(name + rest):
            counts["wait"] += 1
        elif name in GLOBAL_LOAD:
            width = WIDTH.search(rest.split()[0]) if rest.startswith(".") else None
            counts[f"{name}.{8 * BYTES[width[1]] if width else 32}"] += 1
    return dict(sorted(counts.items()))
