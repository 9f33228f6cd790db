"""What launches need of tensors: slabs, strides, and whether 32-bit offsets reach."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A slab has five matrices of two float16 planes each, and as many again for tangents.
_SLAB_PLANES = {False: 10, True: 20}


def new_slabs(like: Tensor, count: int, side: int, tangents: bool) -> Tensor:
    """Uninitialised slabs for matrices of (side, side) elements."""
    return like.new_empty(count * _SLAB_PLANES[tangents] * side * side, dtype=torch.float16)


def is_wide(*tensors: Tensor) -> bool:
    """Whether a sample of any of these (B, ...) tensors spans 2^31 elements or more in memory."""
    return any(
        sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True)) >= 2**31
        for tensor in tensors
    )


def alignment(m: int, *features: Tensor) -> int:
    """Adjacent positions of (B, C, M) tensors of one dtype that a load or a store may take at once: 16 bytes at most.

    A power of two that divides M and the strides of samples and channels; 1 where positions are not adjacent.
    """
    together = math.gcd(16 // features[0].element_size(), m)
    for tensor in features:
        stride_b, stride_c, stride_m = tensor.stride()
        together = math.gcd(together, stride_b, stride_c) if stride_m == 1 else 1
    return together


def matrix_strides(tensor: Tensor) -> tuple[int, int, int]:
    """Strides of (B, C, C), or of (B, C(C+1)/2) with a zero for the dimension that is not there."""
    if tensor.dim() == 2:
        return tensor.stride(0), tensor.stride(1), 0
    return tensor.stride(0), tensor.stride(1), tensor.stride(2)
