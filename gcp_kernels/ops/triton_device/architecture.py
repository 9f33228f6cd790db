"""What a launch needs to know of a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Architecture:
    """A GPU architecture: compute capability as one number, such as 90, and how many multiprocessors there are."""

    capability: int
    multiprocessors: int


# What configurations are chosen for where kernels are interpreted on the CPU: with two multiprocessors each program of
# a persistent launch takes several samples, as on a GPU.
INTERPRETED = Architecture(capability=90, multiprocessors=2)


def architecture(device: torch.device) -> Architecture:
    """Find the architecture of a CUDA device, or :data:`INTERPRETED` for the CPU."""
    return _cuda_architecture(device.index) if device.type == "cuda" else INTERPRETED


@cache
def _cuda_architecture(index: int) -> Architecture:
    properties = torch.cuda.get_device_properties(index)
    return Architecture(10 * properties.major + properties.minor, properties.multi_processor_count)


_HERE = nullcontext()


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, on which Triton launches, inside the block; free where it is already."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(device)
