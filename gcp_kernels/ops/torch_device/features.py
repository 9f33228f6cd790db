"""Centred features, and products with them, in plain PyTorch."""

import torch
from torch import Tensor

from ..shapes import is_channels_last


def centre(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features (B, C, M) less their mean over M, and the mean's offset (B, C), both in ``dtype``.

    The offset is the mean less the first position. Stored so, it makes a constant channel exactly zero, and a mean much
    larger than the deviations costs no accuracy, in the backward pass either.
    """
    centred = x.to(dtype) - x[..., :1].to(dtype)
    offset = centred.mean(dim=-1, keepdim=True)
    return centred.sub_(offset), offset.squeeze(-1)


def centre_again(x: Tensor, offset: Tensor) -> Tensor:
    """The centred features of :func:`centre`, bit for bit, from the offset that it found."""
    dtype = offset.dtype
    return (x.to(dtype) - x[..., :1].to(dtype)).sub_(offset[..., None])


def multiply_features(matrix: Tensor, centred: Tensor, out: Tensor) -> None:
    """matrix @ centred into ``out``, (b, C, M) in the dtype and layout of the features; ``matrix`` is symmetric."""
    if is_channels_last(out):
        out, left, right = out.mT, centred.mT, matrix
    else:
        left, right = matrix, centred
    if out.dtype == matrix.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))
