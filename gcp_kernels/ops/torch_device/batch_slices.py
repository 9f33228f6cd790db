"""How many samples of a batch the torch backend works on at a time, by shape, dtype and device."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SliceConfig:
    """How many bytes one batched matrix of a slice of the batch may take, on a CPU and on a GPU."""

    cpu: int
    gpu: int


# CPU: about ten such matrices are live at once. Slices keep them near the second-level caches of a few cores, and the
# working memory independent of the batch. Two cores, forward + backward, ms for 0.5, 1, 2, 4 MiB and the whole batch:
# (64, 256, 14x14) -, 338, 352, 345, 361; (64, 128, 14x14) -, 46, 50, 50, -; (8, 256, 14x14) 34.3, 34.0, 33.9, -, -.
# GPU: enough samples to fill the multiprocessors (64 of C = 256), at about 200 MiB of working memory. Not measured.
ITERATED = SliceConfig(cpu=1 << 20, gpu=16 << 20)

# Where no more than two or three (C, C) matrices are live, larger slices take no more memory. CPU, one core, least ms
# forward + backward. The covariance with a scale, for 1, 4 MiB: (16, 256, 14x14) 18.1, 17.9; (64, 256, 7x7) 27.4, 27.3;
# (64, 128, 14x14) 21.5, 22.1. But fewer operations lose less time where threads wait for one another on busy cores: two
# threads that spin, on cores that others use too, median ms: 1028, 385; 4885, 1448; 536, 321. The iteration on the side
# of the positions, for 1, 2, 4, 8 MiB: (8, 512, 7x7) 15.3, 13.1, 12.5, 11.8; (32, 256, 7x7) 19.1, 18.2, -, 17.6;
# (8, 256, 14x14) 57.1, 56.5, 56.0, 54.7. GPU: not measured.
FEW_MATRICES = SliceConfig(cpu=4 << 20, gpu=64 << 20)


def slice_size(
    batch: int,
    channels: int,
    positions: int,
    dtype: torch.dtype,
    device: torch.device,
    config: SliceConfig = ITERATED,
) -> int:
    """Choose how many samples to work on at a time: at least 1 and at most ``batch`` (1 for an empty batch).

    What takes the memory is the larger of a (C, C) matrix and the centred features (C, M) of a sample.
    """
    matrix_bytes = config.cpu if device.type == "cpu" else config.gpu
    sample_bytes = channels * max(channels, positions) * dtype.itemsize
    return max(1, min(batch, matrix_bytes // sample_bytes))


def slices(batch: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of the batch, of ``size`` samples each; the last may be shorter."""
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))
