"""The two sides on which isqrt_pool can iterate: (C, C) matrices of the channels, or (M, M) matrices of the positions.

The features z = (x - mu) / sqrt(t M) of a sample have a covariance z z^T and a Gram matrix z^T z with the same
eigenvalues, but for zeros, so both give the same pooled features; docs/mathematics.md derives it. Each backend chooses
by the shape alone, the same in both passes; with "auto" the two passes may be of two backends, and so on two sides.
"""

from typing import Literal

Side = Literal["channels", "positions"]

CHANNELS: Side = "channels"
POSITIONS: Side = "positions"


def iterated_and_summed(side: Side, c: int, m: int) -> tuple[int, int]:
    """Give the size of the matrices that are iterated on a side, and how many products of features each sums."""
    return (c, m) if side == CHANNELS else (m, c)
