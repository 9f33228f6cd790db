"""Launches of isqrt_pool, and of newton_schulz_sqrt, whose kernels take a covariance that is given."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.ops.shapes import empty_gradient, empty_iterates, pooled_shape
from gcp_kernels.ops.sides import POSITIONS
from gcp_kernels.precision import PLANES, resolve_precision

from ...triton_device import cache_keys, policy  # noqa: F401
from ...triton_device.architecture import architecture, current
from ...triton_device.arguments import Features, Matrices, features_of, matrices_of
from ...triton_device.launch import alignment, is_wide, new_slabs
from ...triton_device.policy import Config, OnChip, Persistent
from . import on_chip, persistent
from .phase_launches import launch_backward_phases, launch_forward_phases
from .positions import launch as positions


def isqrt_pool(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool (B, C, M) features; give (B, C(C+1)/2) or (B, C, C), centre (B, C), trace (B,), no iterates (B, 0, C, C)."""
    b, c, m = x.shape
    precision = resolve_precision(precision, x.dtype)
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=torch.float32)
    trace = x.new_empty(b, dtype=torch.float32)
    if b:
        choice = policy.isqrt_forward(b, c, m, precision, architecture(x.device))
        launch_forward(x, pooled, centre, trace, n_iter, precision, choice)
    return pooled, centre, trace, empty_iterates(x, c, n_iter, False)


def isqrt_pool_backward(
    grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, triu: bool, precision: str
) -> Tensor:
    """Turn the gradient of the pooled features into that of ``x``, (B, C, M) laid out like ``x``."""
    b, c, m = x.shape
    precision = resolve_precision(precision, x.dtype)
    grad_x = empty_gradient(x)
    if b:
        choice = policy.isqrt_backward(b, c, m, precision, architecture(x.device))
        launch_backward(grad, x, centre, trace, grad_x, n_iter, precision, choice)
    return grad_x


def launch_forward(
    source: Tensor, pooled: Tensor, centre: Tensor | None, trace: Tensor, n_iter: int, precision: str, choice: Config
) -> None:
    """Fill ``pooled``, ``trace`` and ``centre``; without a centre, ``source`` is (B, C, C) matrices, not features."""
    if choice.side == POSITIONS:
        assert centre is not None  # matrices that are given have no positions
        with current(source.device):
            positions.launch_forward(source, pooled, centre, trace, n_iter, precision, choice)
        return
    b, c, m = source.shape
    planes, wide, triu = PLANES[precision], is_wide(source), pooled.dim() == 2
    given: Features | Matrices
    given, align = (matrices_of(source), 1) if centre is None else (features_of(source), alignment(m, source))
    with current(source.device):
        if isinstance(choice, OnChip):
            on_chip.isqrt_pool_on_chip_forward_kernel[(b,)](
                given, pooled, centre, trace, c, m, n_iter,
                triu, planes, wide, align, choice.block_c, choice.block_m,
                num_warps=choice.warps, num_stages=choice.stages,
            )  # fmt: skip
        elif isinstance(choice, Persistent):
            tiling, blocks = choice.tiling, choice.tiling.blocks(c)
            slabs = new_slabs(source, choice.programs, blocks * tiling.block, tangents=False)
            persistent.isqrt_pool_persistent_forward_kernel[(choice.programs,)](
                given, pooled, centre, trace, slabs, b, c, m, n_iter,
                triu, planes, wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m,
                num_warps=tiling.warps, num_stages=tiling.stages,
            )  # fmt: skip
        else:
            launch_forward_phases(given, pooled, centre, trace, m, n_iter, planes, wide, align, choice)


def launch_backward(
    grad: Tensor, source: Tensor, centre: Tensor | None, trace: Tensor, grad_source: Tensor, n_iter: int,
    precision: str, choice: Config,
) -> None:  # fmt: skip
    """Fill ``grad_source`` from the upstream gradient and what the forward pass saved; of matrices it is contiguous."""
    if choice.side == POSITIONS:
        assert centre is not None  # matrices that are given have no positions
        with current(source.device):
            positions.launch_backward(grad, source, centre, trace, grad_source, n_iter, precision, choice)
        return
    b, c, m = source.shape
    planes, wide = PLANES[precision], is_wide(source, grad, grad_source)
    upstream, align = matrices_of(grad), 1
    given: Features | Matrices
    out: Features | Tensor
    if centre is None:
        given, out = matrices_of(source), grad_source
    else:
        given, out, align = features_of(source), features_of(grad_source), alignment(m, source, grad_source)
    with current(source.device):
        if isinstance(choice, OnChip):
            on_chip.isqrt_pool_on_chip_backward_kernel[(b,)](
                upstream, given, centre, trace, out, c, m, n_iter,
                planes, wide, align, choice.block_c, choice.block_m,
                num_warps=choice.warps, num_stages=choice.stages,
            )  # fmt: skip
        elif isinstance(choice, Persistent):
            tiling, blocks = choice.tiling, choice.tiling.blocks(c)
            slabs = new_slabs(source, choice.programs, blocks * tiling.block, tangents=True)
            persistent.isqrt_pool_persistent_backward_kernel[(choice.programs,)](
                upstream, given, centre, trace, out, slabs, b, c, m, n_iter,
                planes, wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m,
                num_warps=tiling.warps, num_stages=tiling.stages,
            )  # fmt: skip
        else:
            launch_backward_phases(upstream, given, centre, trace, out, m, n_iter, planes, wide, align, choice)
