"""Centred features, and products with them, in plain PyTorch."""

import torch
from torch import Tensor

from ..shapes import is_channels_last


def subtract_mean(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Give features (B, C, M) less their mean over M, and the centre of each channel (B, C), both in ``dtype``.

    The centre is the mean less the first position. Stored so, it makes a constant channel exactly zero, and a mean much
    larger than the deviations costs no accuracy, in the backward pass either.
    """
    centred = x.to(dtype) - x[..., :1].to(dtype)
    centre = centred.mean(dim=-1, keepdim=True)
    return centred.sub_(centre), centre.squeeze(-1)


def subtract_centre(x: Tensor, centre: Tensor) -> Tensor:
    """Give the centred features of :func:`subtract_mean`, bit for bit, from the centre that it found."""
    dtype = centre.dtype
    return (x.to(dtype) - x[..., :1].to(dtype)).sub_(centre[..., None])


def multiply_features(matrix: Tensor, centred: Tensor, out: Tensor) -> None:
    """Write matrix @ centred into ``out``, (b, C, M), in its dtype and layout; ``matrix`` is symmetric."""
    if is_channels_last(out):
        out, left, right = out.mT, centred.mT, matrix
    else:
        left, right = matrix, centred
    if out.dtype == matrix.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))
