"""When a launch for each phase is faster than a program for each sample: both are timed over B, C and M.

The rule of :class:`gcp_kernels.ops.triton_device.policy.Thresholds` cannot be right everywhere. The rule chosen is
the one that loses least, on average over all that was timed, against always picking the faster form. It is timed on
shapes that are iterated on the side of the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from gcp_kernels.ops.sides import CHANNELS
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import Choices, Config, OnChip, Thresholds
from gcp_kernels.precision import PLANES

from ..codegen.triton_kernels import DTYPES, KernelCase
from ..timing import Spread
from .search import MARGIN, Say, Stopwatch, wrong_passes
from .space import described

# Samples for each multiprocessor, channels and positions that are timed; B = 1 is timed as well.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
WIDTHS = (64, 128, 256, 512)
POSITIONS = (49, 784, 6272)
# Values that the rule may take; the last number of positions is never reached.
RULE_SAMPLES = (0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0, 1.5)
RULE_BLOCKS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
RULE_POSITIONS = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 2**31)
ROUNDS = 5
# Larger features would need too much memory in float64, and fill any GPU as they are.
MOST_ELEMENTS = 2**27


@dataclass(frozen=True)
class Point:
    """Seconds of a pass as one program for each sample, and by phase."""

    b: int
    m: int
    blocks: int
    whole: float
    by_phase: float


def forms(case: KernelCase, table: Choices, arch: Architecture) -> tuple[Config, Config]:
    """Give the two configurations of a pass: a program for each sample, as the table has it, and by phase."""
    planes = PLANES[case.precision]
    on_chip = (table.on_chip_backward if case.backward else table.on_chip_forward)[planes]
    tiling = (table.backward if case.backward else table.forward)[planes]
    small = next((choice for choice in on_chip if case.c <= choice.block_c), None)
    whole = small or policy.persistent(case.b, case.c, tiling, arch)
    return whole, policy.by_phase(case.b, case.c, case.m, table.phases[planes], arch)


def cases(arch: Architecture, precisions: Sequence[str]) -> Iterator[KernelCase]:
    batches = sorted({1, *(max(1, round(share * arch.multiprocessors)) for share in SHARES)})
    for precision, backward, c, m, b in product(precisions, (False, True), WIDTHS, POSITIONS, batches):
        if b * c * m <= MOST_ELEMENTS and policy.side_of(c, m) == CHANNELS:
            yield KernelCase(OnChip(16, 16, 1), backward, precision, DTYPES[precision], c, b=b, m=m)


def measured(
    table: Choices, arch: Architecture, precisions: Sequence[str], clock: Stopwatch, say: Say
) -> Iterator[Point]:
    """Both forms of every case in turn; one that is wrong is said to be, and its case is left out."""
    for case in cases(arch, precisions):
        launches = [replace(case, choice=choice) for choice in forms(case, table, arch)]
        if (wrong := next(wrong_passes(launches, clock), None)) is not None:
            say(f"  left out: {wrong}")
            continue
        whole, by_phase = (Spread.of(times).median for times in clock.seconds(launches, ROUNDS))
        say(f"  {described(case)} {case.precision}: {1e6 * whole:.4g} us whole, {1e6 * by_phase:.4g} us by phase")
        yield Point(case.b, case.m, table.phases[PLANES[case.precision]].blocks(case.c), whole, by_phase)


def loss(rule: Thresholds, points: Sequence[Point], multiprocessors: int) -> float:
    """How many times longer than always choosing right, the geometric mean less one."""
    total = 0.0
    for point in points:
        chosen = point.by_phase if rule.wants_phases(point.b, point.m, point.blocks, multiprocessors) else point.whole
        total += math.log(chosen / min(point.whole, point.by_phase))
    return math.exp(total / len(points)) - 1


def fitted(points: Sequence[Point], multiprocessors: int, shipped: Thresholds) -> tuple[Thresholds, str]:
    """Give the rule that loses least, and the reason in words; what is shipped where that loses hardly more."""
    rules = [
        replace(shipped, samples=samples, blocks=blocks, positions=positions)
        for samples, blocks, positions in product(RULE_SAMPLES, RULE_BLOCKS, RULE_POSITIONS)
    ]
    best = min(rules, key=lambda rule: loss(rule, points, multiprocessors))
    least, before = (loss(rule, points, multiprocessors) for rule in (best, shipped))
    if before <= least + MARGIN / 2:
        best, least = shipped, before
    why = f"loses {100 * least:.1f} % against always choosing right, over {len(points)} passes"
    return best, why + ("" if best == shipped else f"; {shipped} lost {100 * before:.1f} %")
