"""covariance_pool: launches of the plain covariance, with an optional scale for each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.ops.shapes import empty_gradient, empty_scale_gradient, pooled_shape
from gcp_kernels.precision import PLANES, resolve_precision

from ...triton_device import cache_keys
from ...triton_device.architecture import current
from ...triton_device.launch import alignment, is_wide, matrix_strides
from ...triton_device.policy import COVARIANCE, Tiling
from . import kernels


def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Forward: (B, C, M), scale (B, C) -> covariance (B, C(C+1)/2) or (B, C, C), offset (B, C)."""
    b, c, _ = x.shape
    pooled = x.new_empty(pooled_shape(b, c, triu))
    offset = x.new_empty(b, c, dtype=torch.float32)
    if b:
        launch_forward(x, scale, pooled, offset, triu, resolve_precision(precision, x.dtype), COVARIANCE)
    return pooled, offset


def covariance_pool_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, offset: Tensor, triu: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Backward: gradient of the covariance -> that of ``x``, laid out like it, and of the scale, (B, C) or (B, 0)."""
    grad_x, grad_scale = empty_gradient(x), empty_scale_gradient(x, scale)
    if x.shape[0]:
        precision = resolve_precision(precision, x.dtype)
        launch_backward(grad, x, scale, offset, grad_x, grad_scale, triu, precision, COVARIANCE)
    return grad_x, grad_scale


def launch_forward(
    x: Tensor, scale: Tensor | None, pooled: Tensor, offset: Tensor, triu: bool, precision: str, tiling: Tiling
) -> None:
    """Fill ``pooled`` and ``offset``."""
    b, c, m = x.shape
    with current(x.device):
        kernels.forward_kernel[(b * tiling.tiles(c),)](
            x, offset if scale is None else scale, pooled, offset, c, m, *x.stride(), *_strides(scale),
            scale is not None, triu, PLANES[precision], is_wide(x, *_given(scale)), alignment(m, x),
            tiling.blocks(c), tiling.block, tiling.block_m,
            num_warps=tiling.warps, num_stages=tiling.stages,
        )  # fmt: skip


def launch_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, offset: Tensor, grad_x: Tensor, grad_scale: Tensor, triu: bool,
    precision: str, tiling: Tiling,
) -> None:  # fmt: skip
    """Fill ``grad_x`` and, of a scale, ``grad_scale``."""
    b, c, m = x.shape
    with current(x.device):
        kernels.backward_kernel[(b * tiling.blocks(c),)](
            grad, x, offset if scale is None else scale, offset, grad_x, grad_scale, c, m,
            *matrix_strides(grad), *x.stride(), *_strides(scale), *grad_x.stride(),
            scale is not None, triu, PLANES[precision], is_wide(x, grad, grad_x, *_given(scale)),
            alignment(m, x, grad_x), tiling.blocks(c), tiling.block, tiling.block_k, tiling.block_m,
            num_warps=tiling.warps, num_stages=tiling.stages,
        )  # fmt: skip


def _given(scale: Tensor | None) -> tuple[Tensor, ...]:
    return () if scale is None else (scale,)


def _strides(scale: Tensor | None) -> tuple[int, int]:
    return (0, 0) if scale is None else (scale.stride(0), scale.stride(1))
