"""covariance_pool: the plain covariance, with an optional scale for each channel, by csrc/covariance_pool."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.precision import PLANES, resolve_precision
from gcp_kernels.shapes import empty_gradient, empty_scale_gradient, pooled_shape

from .extension import operators


def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Forward: (B, C, M), scale (B, C) -> covariance (B, C(C+1)/2) or (B, C, C), offset (B, C)."""
    b, c, _ = x.shape
    pooled = x.new_empty(pooled_shape(b, c, triu))
    offset = x.new_empty(b, c, dtype=torch.float32)
    planes = PLANES[resolve_precision(precision, x.dtype)]
    operators("covariance_pool").covariance_pool(x, scale, triu, planes, pooled, offset)
    return pooled, offset


def covariance_pool_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, offset: Tensor, triu: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Backward: gradient of the covariance -> that of ``x``, laid out like it, and of the scale, (B, C) or (B, 0).

    It is float32-class in every precision: the one product may cancel, so its operands are always split.
    """
    grad_x, grad_scale = empty_gradient(x), empty_scale_gradient(x, scale)
    operators("covariance_pool").covariance_pool_backward(
        grad, x, scale, offset, triu, grad_x, None if scale is None else grad_scale
    )
    return grad_x, grad_scale
