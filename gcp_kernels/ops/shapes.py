"""Shapes and strides on which operators and backends agree, in plain integer arithmetic."""

from math import isqrt
from operator import index

from torch import Tensor, dtype

from gcp_kernels.precision import accumulation_dtype


def triangle_size(c: int) -> int:
    """Count the elements of the upper triangle, diagonal included, of a C x C matrix: C(C+1)/2."""
    return c * (c + 1) // 2


def triangle_order(size: int) -> int:
    """Find the C whose triangle has ``size`` elements.

    Raises:
        ValueError: ``size`` is not C(C+1)/2 for any C.
    """
    size = index(size)  # from here on a compiler with dynamic shapes takes the length of a triangle for a constant
    c = (isqrt(8 * size + 1) - 1) // 2
    if triangle_size(c) != size:
        raise ValueError(
            f"a triangle vector has C(C+1)/2 elements for some C, got {size}; the nearest are "
            f"{triangle_size(c)} (C = {c}) and {triangle_size(c + 1)} (C = {c + 1})"
        )
    return c


def pooled_shape(b: int, c: int, triu: bool) -> tuple[int, ...]:
    """Give the shape of a pooled batch: (B, C(C+1)/2) for a triangle, else (B, C, C)."""
    return (b, triangle_size(c)) if triu else (b, c, c)


def is_channels_last(x: Tensor) -> bool:
    """Say whether the channels of (B, C, M) features are neighbours in memory, as in channels_last or in tokens."""
    c = x.shape[1]
    return c > 1 and x.stride(1) == 1 and x.stride(2) >= c


def empty_gradient(x: Tensor, samples: int | None = None, dtype: dtype | None = None) -> Tensor:
    """Allocate a gradient of (B, C, M) features without values, with channels first or last in memory as in ``x``.

    It is of all samples and of the dtype of ``x`` if not said.
    """
    b, c, m = x.shape
    b = b if samples is None else samples
    if is_channels_last(x):
        return x.new_empty(b, m, c, dtype=dtype).transpose(1, 2)
    return x.new_empty(b, c, m, dtype=dtype)


def empty_scale_gradient(x: Tensor, scale: Tensor | None) -> Tensor:
    """Allocate a gradient of the (B, C) scale without values; without a scale, (B, 0) in the dtype of ``x``."""
    b, c, _ = x.shape
    return x.new_empty(b, 0) if scale is None else scale.new_empty(b, c)


def empty_iterates(like: Tensor, side: int, n_iter: int, keep: bool) -> Tensor:
    """Allocate iterates without values for the batch of ``like``: (B, 2N, s, s), or (B, 0, s, s) if not kept.

    The samples of one iterate are contiguous in memory, as batched products need them.
    """
    count = 2 * n_iter if keep else 0
    return like.new_empty(count, like.shape[0], side, side, dtype=accumulation_dtype(like.dtype)).transpose(0, 1)


def keeps_iterates(tensor: Tensor, wanted: bool, backend: str) -> bool:
    """Say whether iterates are kept: only by the torch backend on the CPU, where time matters more than memory."""
    return wanted and tensor.device.type == "cpu" and backend in ("auto", "torch")
