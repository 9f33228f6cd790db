"""What is searched for in the Triton backend's tables: entries, their candidates, and the passes that are timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from gcp_kernels.architectures import FIRST_WITH, choices_of
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import Choices, OnChip, Tiling
from gcp_kernels.precision import PLANES

from ..codegen.gate import SHARED_LIMIT
from ..codegen.triton_kernels import DTYPES, KernelCase

# Tables by their name in the configuration, and the architecture that each is compiled for first.
TABLES = dict(sorted(FIRST_WITH.items(), key=lambda named: named[1]))
KERNELS = (
    "on-chip-forward", "on-chip-backward", "positions-forward", "positions-backward",
    "persistent-forward", "persistent-backward", "phases", "covariance",
)  # fmt: skip

ON_CHIP_SIDES = (128, 64, 32, 16)
# A warp takes 16 rows of a product whose result is the next one's operand: those beyond would repeat others' products.
# Fewer than here would spill.
ON_CHIP_WARPS = {16: (1,), 32: (1, 2), 64: (2, 4), 128: (4, 8)}
ON_CHIP_POSITIONS = (16, 32, 64)
# On the side of the positions, of so many; channels are read in blocks of 32 or 64, and whole warp groups store them.
POSITIONS_SIDES = (64, 32, 16)
POSITIONS_CHANNELS, POSITIONS_WARPS = (32, 64), (2, 4, 8)
STAGES = (1, 2, 3, 4)
BLOCKS, INNER, STRIPS = (32, 64, 128), (16, 32, 64), (16, 32)
WARPS = {32: (2, 4), 64: (4,), 128: (4, 8)}

Option = OnChip | Tiling | None


@dataclass(frozen=True)
class Entry:
    """One value of a table: where it stands, what it is today, what else it could be, and on what it is timed.

    ``precision`` of covariances is "fast and high". An entry on chip may also be ``None``, not there at all: then the
    ``rival`` serves its shapes, the entry for the next larger matrices or a tiling through the L2 cache. The
    configurations in ``cases`` are placeholders.
    """

    kernel: str
    precision: str
    side: int
    shipped: Option
    rival: Option
    candidates: tuple[Option, ...]
    cases: tuple[KernelCase, ...]

    @property
    def name(self) -> str:
        of = "positions" if self.kernel.startswith("positions") else "channels"
        return f"{self.kernel} {self.precision}" + (f" up to {self.side} {of}" if self.side else "")

    def launches(self, option: Option, arch: Architecture) -> list[KernelCase]:
        """Give the passes in the configuration that an option means for their shapes."""
        return [replace(case, choice=self._configuration(option, case, arch)) for case in self.cases]

    def _configuration(self, option: Option, case: KernelCase, arch: Architecture) -> policy.Config | Tiling:
        option = self.rival if option is None else option
        assert option is not None
        if isinstance(option, OnChip) or self.kernel == "covariance":
            return option
        side = policy.side_of(case.c, case.m)
        if self.kernel == "phases":
            return policy.by_phase(case.b, case.c, case.m, option, arch, side)
        return policy.persistent(case.b, case.c, option, arch, positions=case.m if side == POSITIONS else None)


def table_name(arch: int) -> str:
    """Give the name of the table that serves an architecture."""
    return choices_of(arch)


def served(name: str) -> tuple[int, ...]:
    """Give the architectures that a table serves."""
    return tuple(arch for arch in SHARED_LIMIT if table_name(arch) == name)


def compiled_for(kernel: str, arch: int) -> tuple[int, ...]:
    """For what a candidate must be legal: the GPU, and its table's first; covariances have one tiling for all."""
    bases = tuple(TABLES.values()) if kernel == "covariance" else (TABLES[table_name(arch)],)
    return tuple(dict.fromkeys((arch, *bases)))


def shared_limit(kernel: str, arch: int) -> int:
    """Bytes that a block may have on every GPU that the entry serves."""
    archs = tuple(SHARED_LIMIT) if kernel == "covariance" else served(table_name(arch))
    return min(SHARED_LIMIT[one] for one in archs)


def entry(kernel: str, precision: str, side: int, table: Choices, covariance: Tiling) -> Entry:
    """Give an entry as ``table`` has it; ``side`` is zero for tilings."""
    timed = tuple(cases(kernel, precision, side))
    if kernel == "covariance":  # one tiling serves both precisions
        return Entry(kernel, precision, 0, covariance, None, tuple(tilings()), timed)
    planes = PLANES[precision]
    if side:
        on_chip = {
            "on-chip-forward": table.on_chip_forward,
            "on-chip-backward": table.on_chip_backward,
            "positions-forward": table.positions_forward,
            "positions-backward": table.positions_backward,
        }[kernel][planes]
        tiling = (table.backward if kernel.endswith("backward") else table.forward)[planes]
        larger = next((choice for choice in on_chip if choice.size > side), None)
        shipped = next((choice for choice in on_chip if choice.size == side), None)
        candidates = positions_candidates(side) if kernel.startswith("positions") else on_chip_candidates(side)
        return Entry(kernel, precision, side, shipped, larger or tiling, (*candidates, None), timed)
    shipped_tilings = {
        "persistent-forward": table.forward,
        "persistent-backward": table.backward,
        "phases": table.phases,
    }
    return Entry(kernel, precision, 0, shipped_tilings[kernel][planes], None, tuple(tilings()), timed)


def sizes(kernel: str) -> tuple[int, ...]:
    """Give the sides of the matrices for which a kernel has entries; zero where one tiling serves all."""
    if kernel.startswith("positions"):
        return POSITIONS_SIDES
    return ON_CHIP_SIDES if kernel.startswith("on-chip") else (0,)


def positions_candidates(side: int) -> Iterator[OnChip]:
    for block_c, warps, stages in product(POSITIONS_CHANNELS, POSITIONS_WARPS, STAGES):
        yield OnChip(block_c, side, warps, stages, POSITIONS)


def on_chip_candidates(side: int) -> Iterator[OnChip]:
    for block_m, warps, stages in product(ON_CHIP_POSITIONS, ON_CHIP_WARPS[side], STAGES):
        yield OnChip(side, block_m, warps, stages)


def tilings() -> Iterator[Tiling]:
    for block, block_k, block_m, stages in product(BLOCKS, INNER, STRIPS, STAGES):
        for warps in WARPS[block] if block_k <= block else ():
            yield Tiling(block, block_k, block_m, warps, stages)


def cases(kernel: str, precision: str, side: int) -> Iterator[KernelCase]:
    """Features as published networks have them, on either side where a tiling serves both; few samples for phases.

    Where 7 x 7 positions are iterated on their own side, the side of the channels is timed on 28 x 28.
    """
    if kernel == "covariance":
        for one, backward in product(precision.split(" and "), (False, True)):
            yield KernelCase(Tiling(64, 16, 16, 4), backward, one, DTYPES[one], 256)
        return
    of = KernelCase(OnChip(16, 16, 1), kernel.endswith("backward"), precision, DTYPES[precision], side or 256)
    if kernel == "phases":
        for backward in (False, True):
            yield replace(of, backward=backward, b=1)
            yield replace(of, backward=backward, b=10, m=784)
            yield replace(of, backward=backward, b=10, c=512)
        return
    if kernel.startswith("positions"):
        yield replace(of, c=256, m=side)
        yield replace(of, c=512, m=side - side // 4 + 1)
        return
    yield of
    yield next(replace(of, m=m) for m in (49, 784) if policy.side_of(of.c, m) == CHANNELS)
    if not side:
        yield replace(of, b=66, c=512)


def described(case: KernelCase) -> str:
    """Give a pass without its configuration, such as "forward of 264x256x196 bfloat16"."""
    direction = "backward" if case.backward else "forward"
    return f"{direction} of {case.b}x{case.c}x{case.m} {str(case.dtype).removeprefix('torch.')}"
