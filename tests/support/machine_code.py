"""Machine code by hand, and walks through it, for tests of the model behind ``python -m benchmarks predict``."""

from __future__ import annotations

from collections import Counter

from benchmarks.codegen.cost_model.code import Instruction, parsed
from benchmarks.codegen.cost_model.walk import Walk


def code_of(*lines: str) -> list[Instruction]:
    """As cuobjdump prints them, sixteen bytes apart; ``{n}`` is the address of line number n."""
    places = [f"{16 * number:#x}" for number in range(len(lines))]
    text = "\n".join(f"        /*{16 * n:04x}*/   {line.format(*places)} ;" for n, line in enumerate(lines))
    found = list(parsed(text))
    assert len(found) == len(lines)
    return found


def walked(*lines: str, warps: int = 1, shared: int = 64) -> Walk:
    walk = Walk(code_of(*lines), 90, b"", 32 * warps, shared)
    walk.run()
    return walk


def issued(walk: Walk, warp: int = 0) -> Counter[str]:
    return Counter(str(walk.code[walk.trace.events[event].number]).split()[0] for event in walk.trace.warps[warp])
