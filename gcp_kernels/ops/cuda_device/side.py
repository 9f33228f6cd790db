"""The side on which the CUDA kernels of isqrt_pool iterate, by the shape alone."""

from __future__ import annotations

from ..sides import CHANNELS, POSITIONS, Side

# As in csrc/policy.h and csrc/isqrt_pool/positions/layout.h: the largest matrix of each side.
MOST_CHANNELS = 256
MOST_POSITIONS = 256

# Matrices are in blocks of 16. Below five sixths of the blocks the side of the positions takes less time, both passes
# together. Microseconds forward + backward on the positions, and on the channels, of 256 samples on an H100, "fast":
# 50 + 114, 214 + 1032 at (256, 49); 288 + 1054, 250 + 1148 at (256, 196), 13 blocks of 16, and in "high" 936 + 2545,
# 900 + 2783; but 87 + 208, 53 + 176 at (128, 100), 7 of 8, and 28 + 63, 25 + 54 at (64, 49). Forward alone is equal at
# about two thirds. All 31 pairs are in benchmarks/results/h100-2026-11-27-second/sides.txt. At (128, 81), 6 of 8, the
# positions take 3 % more.
BLOCK = 16


def side_of(c: int, m: int) -> Side:
    """Choose for (C, M): of many channels and many positions, which neither side serves, that of the positions."""
    if c > MOST_CHANNELS:
        return POSITIONS
    return POSITIONS if m <= MOST_POSITIONS and 6 * -(-m // BLOCK) < 5 * -(-c // BLOCK) else CHANNELS
