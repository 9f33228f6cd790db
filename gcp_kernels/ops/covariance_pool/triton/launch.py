"""covariance_pool: launches of the plain covariance, with an optional scale for each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.ops.shapes import empty_gradient, empty_scale_gradient, pooled_shape
from gcp_kernels.precision import PLANES, resolve_precision

from ...triton_device import cache_keys  # noqa: F401
from ...triton_device.architecture import current
from ...triton_device.arguments import features_of, matrices_of, scales_of
from ...triton_device.launch import alignment, is_wide
from ...triton_device.policy import COVARIANCE, Tiling
from . import kernels


def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Pool (B, C, M) features, scaled by (B, C); give (B, C(C+1)/2) or (B, C, C), and the centre (B, C)."""
    b, c, _ = x.shape
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=torch.float32)
    if b:
        launch_forward(x, scale, pooled, centre, resolve_precision(precision, x.dtype), COVARIANCE)
    return pooled, centre


def covariance_pool_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, triu: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Turn the gradient of the covariance into that of ``x``, laid out like it, and of the scale, (B, C) or (B, 0)."""
    grad_x, grad_scale = empty_gradient(x), empty_scale_gradient(x, scale)
    if x.shape[0]:
        filled = None if scale is None else grad_scale
        launch_backward(grad, x, scale, centre, grad_x, filled, resolve_precision(precision, x.dtype), COVARIANCE)
    return grad_x, grad_scale


def launch_forward(
    x: Tensor, scale: Tensor | None, pooled: Tensor, centre: Tensor, precision: str, tiling: Tiling
) -> None:
    """Fill ``pooled`` and ``centre``."""
    b, c, m = x.shape
    with current(x.device):
        kernels.covariance_pool_forward_kernel[(b * tiling.tiles(c),)](
            features_of(x), scales_of(scale), pooled, centre, c, m,
            pooled.dim() == 2, PLANES[precision], is_wide(x, scale), alignment(m, x),
            tiling.blocks(c), tiling.block, tiling.block_m,
            num_warps=tiling.warps, num_stages=tiling.stages,
        )  # fmt: skip


def launch_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, grad_x: Tensor, grad_scale: Tensor | None,
    precision: str, tiling: Tiling,
) -> None:  # fmt: skip
    """Fill ``grad_x`` and, of a scale, ``grad_scale``."""
    b, c, m = x.shape
    with current(x.device):
        kernels.covariance_pool_backward_kernel[(b * tiling.blocks(c),)](
            matrices_of(grad), features_of(x), scales_of(scale), centre, features_of(grad_x), grad_scale, c, m,
            PLANES[precision], is_wide(x, grad, grad_x, scale), alignment(m, x, grad_x),
            tiling.blocks(c), tiling.block, tiling.block_k, tiling.block_m,
            num_warps=tiling.warps, num_stages=tiling.stages,
        )  # fmt: skip
