"""Time and memory of the pooling alone, forward and backward, on feature maps of the network's size."""

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path

import torch
from torch import Tensor

from gcp_kernels import covariance_pool, newton_schulz_sqrt, triu_vec

from ..running import in_new_process
from .heads import Head

# No pooling of its own: GCP without reduction, written as in the paper, on the covariance of C x C.
ON_CHANNELS = "channels"
ON_CHANNELS_LABEL = "GCP, no reduction, iterated on the covariance"
# Its matrices are large: so many images at once are enough.
MOST_ON_CHANNELS = 2
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time, which other processes lengthen less than time by the clock, and MiB; an image's.

    Both are for forward and backward together. The memory is NaN where Linux does not tell it.
    """

    milliseconds: float
    mebibytes: float


def measure_alone(head: Head | str, feature_map: tuple[int, int, int], images: int, repeats: int) -> Cost:
    """Call :func:`measure_cost` in a new process with one thread."""
    return in_new_process(partial(measure_cost, head, feature_map, images, repeats))


def measure_cost(head: Head | str, feature_map: tuple[int, int, int], images: int, repeats: int) -> Cost:
    """Measure one pooling, to be called in a process that does nothing else.

    Args:
        head: the pooling, in training mode, or :data:`ON_CHANNELS`.
        feature_map: C, h and w.
        images: the batch.
        repeats: of which the fastest counts.
    """
    torch.manual_seed(0)
    if isinstance(head, Head):
        pool: Callable[[Tensor], Tensor] = head.build(feature_map[0]).train()
    else:
        pool, images = on_channels, min(images, MOST_ON_CHANNELS)
    x = torch.randn(images, *feature_map).relu_()

    def step(batch: Tensor) -> float:
        batch = batch.detach().requires_grad_()
        started = time.process_time()
        pooled = pool(batch)
        pooled.backward(torch.ones_like(pooled))
        return time.process_time() - started

    # What is made once is not counted.
    step(x[:2])
    before = reset_peak()
    first = step(x)
    mebibytes = (peak() - before) / images
    return Cost(1e3 * min((first, *(step(x) for _ in range(repeats - 1)))) / images, mebibytes)


def on_channels(x: Tensor) -> Tensor:
    """Pool as the paper writes it: Newton-Schulz iterations on the covariance (B, C, C), whatever the positions."""
    return triu_vec(newton_schulz_sqrt(covariance_pool(x, output="full")))


def reset_peak() -> float:
    """Have Linux forget the peak of this process's memory, and return the memory now, in MiB; NaN elsewhere."""
    gc.collect()
    # Freed memory that malloc keeps would be used again without showing in the peak.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        CLEAR.write_text("5")
    except OSError:
        return nan
    return _status("VmRSS")


def peak() -> float:
    """Return the peak since :func:`reset_peak`, in MiB; NaN where Linux does not tell it."""
    return _status("VmHWM")


def _status(entry: str) -> float:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return nan
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{entry}:"))
    return int(kibibytes) / 1024
