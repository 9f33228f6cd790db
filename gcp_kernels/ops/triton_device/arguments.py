"""What kernels are given, as objects: a tensor with its strides; and one sample of it, as device functions take it.

Triton takes a NamedTuple where it takes its members, and specialises on each of them as if it stood alone. What is not
there is ``None``, which is a constant of the kernel, so that what would read it is not compiled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

# Members are tensors and integers where a kernel is launched, and values of Triton inside of it.


class Features(NamedTuple):
    """(B, C, M) features, or their gradient."""

    data: Any
    stride_b: Any
    stride_c: Any
    stride_m: Any


class Matrices(NamedTuple):
    """(B, C, C) matrices; or their upper triangles (B, C(C+1)/2), which have no ``stride_column``.

    The ``stride_row`` of a triangle is that of the packed index.
    """

    data: Any
    stride_b: Any
    stride_row: Any
    stride_column: Any


class Scales(NamedTuple):
    """(B, C) scales of channels."""

    data: Any
    stride_b: Any
    stride_c: Any


class Sample(NamedTuple):
    """The (C, M) features of one sample."""

    data: Any
    stride_c: Any
    stride_m: Any
    C: Any
    M: Any


def features_of(x: Tensor) -> Features:
    """Give (B, C, M) features as a kernel takes them."""
    return Features(x, *x.stride())


def matrices_of(tensor: Tensor) -> Matrices:
    """Give (B, C, C) matrices, or (B, C(C+1)/2) triangles, as a kernel takes them."""
    if tensor.dim() == 2:
        stride_b, stride = tensor.stride()
        return Matrices(tensor, stride_b, stride, None)
    return Matrices(tensor, *tensor.stride())


def scales_of(scale: Tensor | None) -> Scales | None:
    """Give the (B, C) scales as a kernel takes them, if there are any."""
    return None if scale is None else Scales(scale, *scale.stride())
