"""What launches need of tensors: slabs, and how wide offsets and loads are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .slab import panel_elements, slab_elements


def new_slabs(like: Tensor, count: int, side: int, tangents: bool) -> Tensor:
    """Make ``count`` uninitialised slabs for matrices of (side, side) elements, and for their tangents."""
    return like.new_empty(count * slab_elements(side, tangents), dtype=torch.float16)


def new_panels(like: Tensor, count: int, c: int, side: int) -> Tensor:
    """Make ``count`` uninitialised panels of (c, side) elements."""
    return like.new_empty(count * panel_elements(c, side), dtype=torch.float16)


def is_wide(*tensors: Tensor | None) -> bool:
    """Say whether a sample of any of these (B, .) and (B, ., .) tensors spans 2^31 elements or more in memory."""
    for tensor in tensors:
        if tensor is None:
            continue
        sizes, strides = tensor.shape, tensor.stride()
        last = (sizes[1] - 1) * strides[1]
        if len(sizes) == 3:
            last += (sizes[2] - 1) * strides[2]
        if last >= 2**31:
            return True
    return False


def alignment(m: int, *features: Tensor) -> int:
    """Find how many adjacent positions of (B, C, M) tensors of one dtype a load or a store may take at once.

    It is a power of two that divides M and the strides of samples and channels, of 16 bytes at most; 1 where positions
    are not adjacent.
    """
    together = math.gcd(16 // features[0].element_size(), m)
    for tensor in features:
        stride_b, stride_c, stride_m = tensor.stride()
        together = math.gcd(together, stride_b, stride_c) if stride_m == 1 else 1
    return together
