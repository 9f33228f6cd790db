"""The side on which the CUDA kernels of isqrt_pool iterate, by the shape alone."""

from __future__ import annotations

from ..sides import CHANNELS, POSITIONS, Side

# As in csrc/policy.h and csrc/isqrt_pool/positions/layout.h: the largest matrix of each side.
MOST_CHANNELS = 256
MOST_POSITIONS = 256

# Matrices are in blocks of 16. With less than three quarters of the blocks the side of the positions takes less time as
# ``python -m benchmarks predict`` has it, for 256 samples on an H100 in "fast", forward / backward, in microseconds:
# 39 / 82 instead of 184 / 695 at (256, 49), but 221 / 712 instead of 209 / 767 at (256, 196). That is little in a model
# that does not know that the slabs of that side, 93 MB there, are more than the L2 cache holds. Not measured.
BLOCK = 16


def side_of(c: int, m: int) -> Side:
    """Choose for (C, M): of many channels and many positions, which neither side serves, that of the positions."""
    if c > MOST_CHANNELS:
        return POSITIONS
    return POSITIONS if m <= MOST_POSITIONS and 4 * -(-m // BLOCK) < 3 * -(-c // BLOCK) else CHANNELS
