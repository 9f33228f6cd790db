"""Launch choices of the torch backend, as pure functions of shape, dtype and device."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ChunkConfig:
    """How many bytes one (samples, C, C) matrix may take; the batch is worked through in chunks of that size."""

    matrix_bytes: int


# CPU: about ten such matrices are live at once, so 1 MiB each keeps a chunk in the second-level caches of a few cores
# and the working memory independent of the batch. Measured on two cores, forward + backward at (64, 256, 14x14):
# 0.5 MiB 323 ms, 1 MiB 327 ms, 2 MiB 316 ms, whole batch 361 ms. At (16, 128, 14x14) 0.5 MiB costs 10 %.
CPU = ChunkConfig(matrix_bytes=1 << 20)

# GPU: enough samples to fill the multiprocessors (64 of C = 256), at about 200 MiB of working memory. Not measured.
GPU = ChunkConfig(matrix_bytes=16 << 20)


def chunks(batch: int, channels: int, dtype: torch.dtype, device: torch.device) -> Iterator[slice]:
    """Consecutive slices of the batch, all but the last of :func:`chunk_size` samples."""
    size = chunk_size(batch, channels, dtype, device)
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))


def chunk_size(batch: int, channels: int, dtype: torch.dtype, device: torch.device) -> int:
    """Samples in one chunk, at least 1 and at most ``batch`` (1 for an empty batch)."""
    config = CPU if device.type == "cpu" else GPU
    samples = config.matrix_bytes // (channels * channels * dtype.itemsize)
    return max(1, min(batch, samples))
