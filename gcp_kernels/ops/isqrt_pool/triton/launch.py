"""Launches of isqrt_pool, and of newton_schulz_sqrt, whose kernels take a covariance that is given."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.ops.shapes import empty_gradient, empty_iterates, pooled_shape
from gcp_kernels.precision import PLANES, resolve_precision

from ...triton_device import cache_keys, policy
from ...triton_device.architecture import architecture, current
from ...triton_device.launch import alignment, is_wide, matrix_strides, new_slabs
from ...triton_device.policy import Config, OnChip, Persistent
from . import on_chip, persistent
from .phase_launches import launch_backward_phases, launch_forward_phases


def isqrt_pool(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> pooled (B, C(C+1)/2) or (B, C, C), offset (B, C), trace (B,), no iterates (B, 0, C, C)."""
    b, c, m = x.shape
    precision = resolve_precision(precision, x.dtype)
    pooled = x.new_empty(pooled_shape(b, c, triu))
    offset = x.new_empty(b, c, dtype=torch.float32)
    trace = x.new_empty(b, dtype=torch.float32)
    if b:
        choice = policy.isqrt_forward(b, c, m, precision, architecture(x.device))
        launch_forward(x, pooled, offset, trace, m, n_iter, True, triu, precision, choice)
    return pooled, offset, trace, empty_iterates(x, c, n_iter, False)


def isqrt_pool_backward(
    grad: Tensor, x: Tensor, offset: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, triu: bool, precision: str
) -> Tensor:
    """Backward: gradient of the pooled features -> gradient of ``x``, (B, C, M) laid out like ``x``."""
    b, c, m = x.shape
    precision = resolve_precision(precision, x.dtype)
    grad_x = empty_gradient(x)
    if b:
        choice = policy.isqrt_backward(b, c, m, precision, architecture(x.device))
        launch_backward(grad, x, offset, trace, grad_x, m, n_iter, True, triu, precision, choice)
    return grad_x


def launch_forward(
    source: Tensor, pooled: Tensor, offset: Tensor, trace: Tensor, m: int, n_iter: int, features: bool, triu: bool,
    precision: str, choice: Config,
) -> None:  # fmt: skip
    """Fill ``pooled``, ``trace`` and, of features, ``offset``; ``source`` is (B, C, M) features or (B, C, C)."""
    b, c = source.shape[:2]
    planes, wide, align = PLANES[precision], is_wide(source), alignment(m, source)
    with current(source.device):
        if isinstance(choice, OnChip):
            on_chip.forward_kernel[(b,)](
                source, pooled, offset, trace, c, m, n_iter, *source.stride(),
                features, triu, planes, wide, align, choice.block_c, choice.block_m,
                num_warps=choice.warps, num_stages=choice.stages,
            )  # fmt: skip
        elif isinstance(choice, Persistent):
            tiling, blocks = choice.tiling, choice.tiling.blocks(c)
            slabs = new_slabs(source, choice.programs, blocks * tiling.block, tangents=False)
            persistent.forward_kernel[(choice.programs,)](
                source, pooled, offset, trace, slabs, b, c, m, n_iter, *source.stride(),
                features, triu, planes, wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m,
                num_warps=tiling.warps, num_stages=tiling.stages,
            )  # fmt: skip
        else:
            launch_forward_phases(source, pooled, offset, trace, m, n_iter, features, triu, planes, wide, align, choice)


def launch_backward(
    grad: Tensor, source: Tensor, offset: Tensor, trace: Tensor, grad_source: Tensor, m: int, n_iter: int,
    features: bool, triu: bool, precision: str, choice: Config,
) -> None:  # fmt: skip
    """Fill ``grad_source`` from the upstream gradient and what the forward pass saved."""
    b, c = source.shape[:2]
    planes, wide = PLANES[precision], is_wide(source, grad, grad_source)
    align = alignment(m, source, grad_source)
    strides = (*matrix_strides(grad), *source.stride(), *grad_source.stride())
    with current(source.device):
        if isinstance(choice, OnChip):
            on_chip.backward_kernel[(b,)](
                grad, source, offset, trace, grad_source, c, m, n_iter, *strides,
                features, triu, planes, wide, align, choice.block_c, choice.block_m,
                num_warps=choice.warps, num_stages=choice.stages,
            )  # fmt: skip
        elif isinstance(choice, Persistent):
            tiling, blocks = choice.tiling, choice.tiling.blocks(c)
            slabs = new_slabs(source, choice.programs, blocks * tiling.block, tangents=True)
            persistent.backward_kernel[(choice.programs,)](
                grad, source, offset, trace, grad_source, slabs, b, c, m, n_iter, *strides,
                features, triu, planes, wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m,
                num_warps=tiling.warps, num_stages=tiling.stages,
            )  # fmt: skip
        else:
            launch_backward_phases(
                grad, source, offset, trace, grad_source, m, n_iter, features, triu, planes, wide, align, choice
            )
