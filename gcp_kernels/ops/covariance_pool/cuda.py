"""covariance_pool: the plain covariance, with an optional scale for each channel, by csrc/covariance_pool."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.ops.shapes import empty_gradient, empty_scale_gradient, pooled_shape
from gcp_kernels.precision import PLANES, resolve_precision

from ..cuda_device.extension import operators


def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Forward: (B, C, M), scale (B, C) -> covariance (B, C(C+1)/2) or (B, C, C), centre (B, C)."""
    b, c, _ = x.shape
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=torch.float32)
    planes = PLANES[resolve_precision(precision, x.dtype)]
    operators("covariance_pool").covariance_pool(x, scale, triu, planes, pooled, centre)
    return pooled, centre


def covariance_pool_inference(x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> Tensor:
    """Pool as :func:`covariance_pool` does, by the operator that exported programs call: it allocates its result."""
    planes = PLANES[resolve_precision(precision, x.dtype)]
    return operators("covariance_pool").covariance_pool_inference(x, scale, triu, planes)


def covariance_pool_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, triu: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Backward: gradient of the covariance -> gradient of ``x``, laid out like it, and of the scale, (B, C) or (B, 0).

    It is as exact as float32 in every precision: its only product may cancel, so both operands are always split into
    two planes.
    """
    grad_x, grad_scale = empty_gradient(x), empty_scale_gradient(x, scale)
    operators("covariance_pool").covariance_pool_backward(
        grad, x, scale, centre, triu, grad_x, None if scale is None else grad_scale
    )
    return grad_x, grad_scale
