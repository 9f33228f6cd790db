"""Shapes that every layer agrees on, as plain integer and stride arithmetic."""

from math import isqrt
from operator import index

from torch import Tensor

from gcp_kernels.precision import accumulation_dtype


def triangle_size(c: int) -> int:
    """Elements of the upper triangle, diagonal included, of a C x C matrix: C(C+1)/2."""
    return c * (c + 1) // 2


def triangle_order(size: int) -> int:
    """The C whose triangle has ``size`` elements.

    Raises:
        ValueError: ``size`` is not C(C+1)/2 for any C.
    """
    size = index(size)  # a compiler with dynamic shapes takes the length of a triangle as a constant here
    c = (isqrt(8 * size + 1) - 1) // 2
    if triangle_size(c) != size:
        raise ValueError(
            f"a triangle vector has C(C+1)/2 elements for some C, got {size}; the nearest are "
            f"{triangle_size(c)} (C = {c}) and {triangle_size(c + 1)} (C = {c + 1})"
        )
    return c


def pooled_shape(b: int, c: int, triu: bool) -> tuple[int, ...]:
    """Shape of a pooled batch: (B, C(C+1)/2) as a triangle, else (B, C, C)."""
    return (b, triangle_size(c)) if triu else (b, c, c)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of (B, C, M) features lie next to each other in memory, as in channels_last or tokens."""
    c = x.shape[1]
    return c > 1 and x.stride(1) == 1 and x.stride(2) >= c


def empty_gradient(x: Tensor) -> Tensor:
    """An uninitialised gradient of (B, C, M) features, with the channels where those of ``x`` are in memory."""
    b, c, m = x.shape
    if is_channels_last(x):
        return x.new_empty(b, m, c).transpose(1, 2)
    return x.new_empty(b, c, m)


def empty_scale_gradient(x: Tensor, scale: Tensor | None) -> Tensor:
    """An uninitialised gradient of the (B, C) scale of (B, C, M) features; (B, 0) in their dtype without a scale."""
    b, c, _ = x.shape
    return x.new_empty(b, 0) if scale is None else scale.new_empty(b, c)


def empty_iterates(like: Tensor, c: int, n_iter: int, keep: bool) -> Tensor:
    """Uninitialised iterates of a batch like ``like``: (B, 2N, C, C), or (B, 0, C, C) if not kept.

    The samples of one iterate are contiguous in memory, as batched products want them.
    """
    count = 2 * n_iter if keep else 0
    return like.new_empty(count, like.shape[0], c, c, dtype=accumulation_dtype(like.dtype)).transpose(0, 1)


def keeps_iterates(tensor: Tensor, wanted: bool, backend: str) -> bool:
    """Say whether iterates are kept: where time is short and memory is not, by the torch backend on the CPU."""
    return wanted and tensor.device.type == "cpu" and backend in ("auto", "torch")
