"""Launch choices of the Triton backend: a frozen table, and pure functions of shape, precision and architecture.

No choice here has been timed on a GPU: where one has a reason, it was read from machine code. All compile on
their architecture, and spill no more registers than ``benchmarks/codegen/gate.py`` allows (``python -m
benchmarks.static`` prints the figures, with ``--variants`` those of other inputs too). The thresholds between forms are
estimates, and say of what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from gcp_kernels.architectures import choices_of
from gcp_kernels.ops.sides import CHANNELS, POSITIONS, Side, iterated_and_summed
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.slab import panel_elements, slab_elements
from gcp_kernels.precision import PLANES


@dataclass(frozen=True)
class OnChip:
    """One program for each sample, whose matrices are tiles on chip.

    On the side of the channels they are (block_c, block_c), and positions are read ``block_m`` at a time; on that of
    the positions they are (block_m, block_m), and channels are read ``block_c`` at a time. There several programs may
    share a sample where channels are read, in a launch or two more.
    """

    block_c: int
    block_m: int
    warps: int
    stages: int = 2
    side: Side = CHANNELS
    shared: bool = False

    @property
    def size(self) -> int:
        """Give the side of its matrices."""
        return self.block_m if self.side == POSITIONS else self.block_c

    def blocks(self, c: int) -> int:
        """Count the blocks of channels that are read, on the side of the positions."""
        return -(-c // self.block_c)


@dataclass(frozen=True)
class Tiling:
    """Tiles of (block, block) elements; a product reads ``block_k`` of the inner dimension at a time.

    Positions are read ``block_m`` at a time where a covariance is summed, and in strips of as many where a gradient of
    the features is stored; on the side of the positions, channels where a Gram matrix is summed.
    """

    block: int
    block_k: int
    block_m: int
    warps: int
    stages: int = 2

    def blocks(self, c: int) -> int:
        """Count the blocks in a side of a (C, C) matrix."""
        return -(-c // self.block)

    def tiles(self, c: int) -> int:
        """Count the tiles on or above the diagonal of a (C, C) matrix."""
        return self.blocks(c) * (self.blocks(c) + 1) // 2


@dataclass(frozen=True)
class Persistent:
    """``programs`` programs, each with a slab of memory, that take one sample after another through all phases.

    On the side of the positions each has a panel beside it.
    """

    tiling: Tiling
    programs: int
    side: Side = CHANNELS


@dataclass(frozen=True)
class Phases:
    """One launch for each phase; covariances are summed in ``splits`` parts of ``chunk`` positions.

    ``chunk`` is a multiple of the tiling's ``block_m``, in which positions are read. On the side of the positions it is
    Gram matrices that are summed, over channels.
    """

    tiling: Tiling
    splits: int
    chunk: int
    side: Side = CHANNELS


Config = OnChip | Persistent | Phases


@dataclass(frozen=True)
class Thresholds:
    """When a launch for each phase is faster than a program for each sample.

    It is where there are fewer samples than ``samples`` for each multiprocessor, so that a program for each leaves
    multiprocessors idle, and where a sample is worth about fifteen launches: its matrices have more than ``blocks``
    blocks a side in the tiling of the phases, or more than ``positions`` positions are summed.
    """

    samples: float = 0.5
    blocks: int = 2
    positions: int = 4096
    # On chip on the side of the positions, programs share a sample where there are fewer samples than these for each
    # multiprocessor, and more blocks of channels. The result has a tile for each pair of blocks, and a program stores
    # one after another; a launch more is worth about as many tiles as five blocks have, fifteen.
    shared_samples: float = 2.0
    shared_blocks: int = 4

    def wants_sharing(self, b: int, blocks: int, multiprocessors: int) -> bool:
        """Say whether programs share each of B samples of ``blocks`` blocks of channels."""
        return b < self.shared_samples * multiprocessors and blocks > self.shared_blocks

    def wants_phases(self, b: int, m: int, blocks: int, multiprocessors: int) -> bool:
        """Say whether B samples of M positions, whose matrices have ``blocks`` blocks a side, are launched by phase.

        On the side of the positions M stands for the channels, which are summed there, and ``blocks`` is of the result.
        """
        return b < self.samples * multiprocessors and (blocks > self.blocks or m > self.positions)


@dataclass(frozen=True)
class Choices:
    """The shipped configurations of an architecture, by planes of an operand (1 "fast", 2 "high")."""

    on_chip_forward: dict[int, tuple[OnChip, ...]]
    on_chip_backward: dict[int, tuple[OnChip, ...]]
    positions_forward: dict[int, tuple[OnChip, ...]]
    positions_backward: dict[int, tuple[OnChip, ...]]
    forward: dict[int, Tiling]
    backward: dict[int, Tiling]
    phases: dict[int, Tiling]
    thresholds: Thresholds = Thresholds()


# On chip, one warp for each 16 rows of 16 or 32 channels: those beyond repeat the products of others. Four warps for 64
# channels and up, one group of tensor core instructions; 128 channels take two groups.
_SMALL = (OnChip(16, 32, warps=1), OnChip(32, 32, warps=2))
_MIDDLE = (*_SMALL, OnChip(64, 32, warps=4))
_LARGE = (*_MIDDLE, OnChip(128, 64, warps=8))

# On the side of the positions the result is stored in tiles of (block_c, block_c): 64 rows are one warp group's.
_FEW = (OnChip(64, 16, 4, side=POSITIONS), OnChip(64, 32, 4, side=POSITIONS))
_POSITIONS = (*_FEW, OnChip(64, 64, 4, side=POSITIONS))
# Backward, blocks of 64 channels leave no registers beside matrices of 64 positions where these are operands too.
_NARROW_POSITIONS = (*_FEW, OnChip(32, 64, 4, side=POSITIONS))
_WIDE_POSITIONS = (*_FEW, OnChip(32, 64, 8, side=POSITIONS))

# Tiles of 64 rows are one warp group's: of eight warps half repeat the products of the others, and sums go through
# shared memory in every step (33 barriers where there are 2 now). Two programs of four warps fit on a multiprocessor.
_TILING = Tiling(64, block_k=32, block_m=16, warps=4)
# More of a row of tiles at a time, and three steps under way, where that spills nothing: steps wait for the L2 cache.
_LONG = Tiling(64, block_k=64, block_m=16, warps=4)
_LONG_3_STAGES = Tiling(64, block_k=64, block_m=16, warps=4, stages=3)
_TILING_3_STAGES = Tiling(64, block_k=32, block_m=16, warps=4, stages=3)
_NARROW = Tiling(64, block_k=16, block_m=16, warps=4)
_NARROW_3_STAGES = Tiling(64, block_k=16, block_m=16, warps=4, stages=3)

AMPERE = Choices(
    on_chip_forward={1: _MIDDLE, 2: _MIDDLE},
    on_chip_backward={1: _SMALL, 2: _SMALL},
    positions_forward={1: _POSITIONS, 2: _POSITIONS},
    # In "high", matrices of 64 positions spill 904 bytes or more.
    positions_backward={1: _NARROW_POSITIONS, 2: _FEW},
    # A third stage spills 104 bytes in "high", and backward 432 in "fast".
    forward={1: _LONG_3_STAGES, 2: _TILING},
    backward={1: _TILING, 2: _NARROW_3_STAGES},
    phases={1: _LONG_3_STAGES, 2: _TILING_3_STAGES},
)
HOPPER = Choices(
    on_chip_forward={1: _LARGE, 2: _MIDDLE},
    on_chip_backward={1: _SMALL, 2: _SMALL},
    positions_forward={1: _POSITIONS, 2: _POSITIONS},
    positions_backward={1: _POSITIONS, 2: _POSITIONS},
    # A third stage spills 48 bytes in "high".
    forward={1: _LONG_3_STAGES, 2: _LONG},
    # A third stage spills 250 bytes in "fast". In "high" a step of 64 leaves no room for a second program.
    backward={1: _LONG, 2: _TILING_3_STAGES},
    phases={1: _LONG_3_STAGES, 2: _TILING_3_STAGES},
)
# Refused, see ``why_not``: the entries are compiled, and wait for a GPU that shows them right.
BLACKWELL = Choices(
    on_chip_forward={1: _MIDDLE, 2: _MIDDLE},
    on_chip_backward={1: _SMALL, 2: _SMALL},
    positions_forward={1: _POSITIONS, 2: _POSITIONS},
    positions_backward={1: _WIDE_POSITIONS, 2: _WIDE_POSITIONS},
    forward={1: _TILING, 2: _TILING},
    # In "high" a step of 32 spills 528 bytes on the side of the positions, with Triton 3.6.0.
    backward={1: _TILING, 2: _NARROW},
    phases={1: _TILING, 2: _TILING},
)
BLACKWELL_CONSUMER = Choices(
    on_chip_forward={1: _MIDDLE, 2: _MIDDLE},
    on_chip_backward={1: _SMALL, 2: _SMALL},
    positions_forward={1: _POSITIONS, 2: _POSITIONS},
    # In "high", matrices of 64 positions spill 848 bytes or more.
    positions_backward={1: _NARROW_POSITIONS, 2: _FEW},
    forward={1: _LONG_3_STAGES, 2: _TILING_3_STAGES},
    # A third stage spills 184 bytes in "fast".
    backward={1: _TILING, 2: _NARROW_3_STAGES},
    phases={1: _LONG_3_STAGES, 2: _TILING_3_STAGES},
)

# What the slabs of a persistent launch may take; a multiprocessor is left idle rather than more. 204 programs of
# C = 512 fit, 51 of C = 1024.
SLAB_BYTES = 2 << 30

# Plain covariances, forward and backward.
COVARIANCE = Tiling(64, block_k=32, block_m=32, warps=4)


def choices(arch: Architecture) -> Choices:
    """Find the table of an architecture; one that is newer than all of them has that of the newest."""
    table: Choices = globals()[_table_name(arch.capability)]
    return table


_table_name = cache(choices_of)


def side_of(c: int, m: int) -> Side:
    """Choose the side on which (C, M) features are iterated, the same for both passes and on every architecture.

    It is that of the smaller matrices, in the sizes that kernels have, if they are smaller by a tenth: on the side of
    the positions there are three products more, two with features and one with the direction. Counted in products of
    blocks of 64, at N = 5, positions take fewer wherever they are chosen for more than 64 channels (below, both sides
    are one block); where M is nearer to C the two differ by a tenth, either way, for many channels.
    """
    return POSITIONS if 10 * _padded(m) < 9 * _padded(c) else CHANNELS


def _padded(side: int) -> int:
    """Give the size of the tiles of a matrix: a power of two that is 16 at least, and beyond 64 a multiple of that."""
    return max(16, 1 << (side - 1).bit_length()) if side <= 64 else -(-side // 64) * 64


def isqrt_forward(b: int, c: int, m: int, precision: str, arch: Architecture) -> Config:
    """Choose how ``isqrt_pool`` runs; for ``precision`` see PLANES."""
    table, planes = choices(arch), PLANES[precision]
    if side_of(c, m) == POSITIONS:
        return _on_positions(b, c, m, table, planes, table.positions_forward[planes], table.forward[planes], arch)
    return _on_channels(b, c, m, table, planes, table.on_chip_forward[planes], table.forward[planes], arch)


def isqrt_backward(b: int, c: int, m: int, precision: str, arch: Architecture) -> Config:
    """Choose how its backward pass runs."""
    table, planes = choices(arch), PLANES[precision]
    if side_of(c, m) == POSITIONS:
        return _on_positions(b, c, m, table, planes, table.positions_backward[planes], table.backward[planes], arch)
    return _on_channels(b, c, m, table, planes, table.on_chip_backward[planes], table.backward[planes], arch)


def sqrt_forward(b: int, c: int, precision: str, arch: Architecture) -> Config:
    """Choose how ``newton_schulz_sqrt`` runs: its matrices are given, and have no positions."""
    table, planes = choices(arch), PLANES[precision]
    return _on_channels(b, c, 1, table, planes, table.on_chip_forward[planes], table.forward[planes], arch)


def sqrt_backward(b: int, c: int, precision: str, arch: Architecture) -> Config:
    """Choose how its backward pass runs."""
    table, planes = choices(arch), PLANES[precision]
    return _on_channels(b, c, 1, table, planes, table.on_chip_backward[planes], table.backward[planes], arch)


def _on_positions(
    b: int, c: int, m: int, table: Choices, planes: int, on_chip: tuple[OnChip, ...], tiling: Tiling, arch: Architecture
) -> Config:
    """Choose on the side of the positions.

    On chip, programs share a sample in the largest block alone: where there are so few, what is computed in vain costs
    little, and there are fewer kernels to compile.
    """
    fitting = [config for config in on_chip if m <= config.block_m]
    if not fitting:
        phases = table.phases[planes]
        if table.thresholds.wants_phases(b, c, phases.blocks(c), arch.multiprocessors):
            return by_phase(b, c, m, phases, arch, POSITIONS)
        return persistent(b, c, tiling, arch, positions=m)
    shares = table.thresholds.wants_sharing(b, fitting[-1].blocks(c), arch.multiprocessors)
    return replace(fitting[-1], shared=True) if shares else fitting[0]


def _on_channels(
    b: int, c: int, m: int, table: Choices, planes: int, on_chip: tuple[OnChip, ...], tiling: Tiling, arch: Architecture
) -> Config:
    phases = table.phases[planes]
    if table.thresholds.wants_phases(b, m, phases.blocks(c), arch.multiprocessors):
        return by_phase(b, c, m, phases, arch)
    for config in on_chip:
        if c <= config.block_c:
            return config
    return persistent(b, c, tiling, arch)


def persistent(b: int, c: int, tiling: Tiling, arch: Architecture, positions: int | None = None) -> Persistent:
    """Take as many programs as are resident at a time, and as there is memory for; of ``positions`` on their side."""
    # Four warps of at most 255 registers leave room for a second program.
    per_multiprocessor = 2 if tiling.warps == 4 else 1
    size = tiling.blocks(c if positions is None else positions) * tiling.block
    # Both passes have as many, so a slab with tangents counts, in float16.
    elements = slab_elements(size, tangents=True) + (0 if positions is None else panel_elements(c, size))
    affordable = max(1, SLAB_BYTES // (2 * elements))
    programs = min(b, per_multiprocessor * arch.multiprocessors, affordable)
    return Persistent(tiling, programs, CHANNELS if positions is None else POSITIONS)


def by_phase(b: int, c: int, m: int, tiling: Tiling, arch: Architecture, side: Side = CHANNELS) -> Phases:
    """Take as many parts of a covariance as occupy the multiprocessors, none shorter than 256 positions.

    On the side of the positions, of their Gram matrix, none shorter than 256 channels.
    """
    size, summed = iterated_and_summed(side, c, m)
    wanted = -(-arch.multiprocessors // (b * tiling.tiles(size)))
    splits = max(1, min(wanted, summed // 256))
    chunk = -(-summed // (splits * tiling.block_m)) * tiling.block_m
    return Phases(tiling, splits=-(-summed // chunk), chunk=chunk, side=side)
