"""Registers, stack and instructions of a kernel, from what cuobjdump prints of its machine code."""

from __future__ import annotations

import re
from collections import Counter

from .static_gate import Figures

# An instruction in the assembler's listing: behind its address and predicate, up to its first dot.
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", re.MULTILINE)
TENSOR_CORE = re.compile(r"HMMA|HGMMA|UTC\w*MMA")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")


def counted(listing: str) -> Figures:
    """Registers, stack and instructions, from what cuobjdump prints of a program.

    Raises:
        RuntimeError: it prints something else.
    """
    resources, counts = RESOURCES.search(listing), Counter(INSTRUCTION.findall(listing))
    if resources is None or not counts:
        raise RuntimeError("no resource usage, or no instruction, in what cuobjdump printed")
    return Figures(
        registers=int(resources[1]),
        stack=int(resources[2]),
        loads=counts["LDL"],
        stores=counts["STL"],
        tensor_cores={name: count for name, count in counts.items() if TENSOR_CORE.fullmatch(name)},
        ldsm=counts["LDSM"],
        instructions=sum(counts.values()) - counts["NOP"],
    )
