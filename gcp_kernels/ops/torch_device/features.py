"""Centred features, and their product with a symmetric matrix, in plain PyTorch."""

import torch
from torch import Tensor

from ..shapes import is_channels_last


def subtract_mean(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return features (B, C, M) less their mean over M, and the centre of each channel (B, C), both in ``dtype``.

    The centre is the mean less the first position. Kept in this form it makes a constant channel exactly zero, and a
    mean much larger than the deviations costs no accuracy, neither here nor in the backward pass.
    """
    centred = x.to(dtype) - x[..., :1].to(dtype)
    centre = centred.mean(dim=-1, keepdim=True)
    return centred.sub_(centre), centre.squeeze(-1)


def subtract_centre(x: Tensor, centre: Tensor) -> Tensor:
    """Compute the centred features of :func:`subtract_mean` again, bit for bit, from the centre that it returned."""
    dtype = centre.dtype
    return (x.to(dtype) - x[..., :1].to(dtype)).sub_(centre[..., None])


def multiply_features(matrix: Tensor, centred: Tensor, out: Tensor) -> None:
    """Write ``matrix`` @ ``centred`` into ``out``, (b, C, M), in its dtype and strides; ``matrix`` is symmetric."""
    if is_channels_last(out):
        out, left, right = out.mT, centred.mT, matrix
    else:
        left, right = matrix, centred
    if out.dtype == matrix.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))


def multiply_pair(first: Tensor, left: Tensor, second: Tensor, right: Tensor, own: float, out: Tensor) -> None:
    """Write ``first`` (``left`` + ``own`` I) + ``second`` ``right`` into ``out``, (b, C, M), in its dtype and strides.

    ``left`` and ``right`` are symmetric, (b, M, M).
    """
    if is_channels_last(out):
        out, addend, first, left, second, right = out.mT, first.mT, left, first.mT, right, second.mT
    else:
        addend = first
    if out.dtype == first.dtype:
        torch.baddbmm(addend, first, left, beta=own, out=out).baddbmm_(second, right)
    else:
        out.copy_(torch.baddbmm(addend, first, left, beta=own).baddbmm_(second, right))
