"""Which side the torch backend iterates on, by the shape alone."""

import torch

from ..sides import CHANNELS, POSITIONS, Side

# From this share of the channels on, positions are too many: what their side multiplies by features besides takes
# longer than smaller matrices save. Time on the side of the channels over that of the positions, forward and backward
# in float32, one core, for M / C of 0.5, 0.75, 0.85, 0.9, 0.95: (32, 64) 2.81, 1.50, 1.00, 0.89, 0.77; (16, 128) 3.84,
# 1.73, 1.08, 0.96, 1.06; (8, 256) 4.51, 1.79, 1.12, 1.14, 0.79; (3, 512) 4.44, 1.80, 0.95, 0.89, 0.79.
MOST_POSITIONS, OF_CHANNELS = 17, 20


def side_of(c: int, m: int) -> Side:
    """Choose the side for C channels at M positions, the same in both passes: positions where M < 0.85 C."""
    return POSITIONS if iterated_size(c, m) < c else CHANNELS


def iterated_size(c: int, m: int) -> int:
    """Give the size of the matrices that are iterated: M or C."""
    return smaller_size(c, m, MOST_POSITIONS, OF_CHANNELS)


def smaller_size(c: int, m: int, most_positions: int, of_channels: int) -> int:
    """Give M where M / C is below ``most_positions`` / ``of_channels``, which is 1 at most, else C."""
    # 1 on the side of the channels, else 0. There is no branch, so that a compiler may leave the sizes open.
    on_channels = torch.sym_max(0, torch.sym_min(1, of_channels * m - most_positions * c + 1))
    return torch.sym_min(c, m + on_channels * c)
