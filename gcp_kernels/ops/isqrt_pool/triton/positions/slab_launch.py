"""Launches on the side of the positions where their matrices do not fit on chip: persistent, or one for each phase."""

from __future__ import annotations

from torch import Tensor

from gcp_kernels.precision import PLANES

from ....triton_device.arguments import features_of, matrices_of
from ....triton_device.launch import alignment, is_wide, new_panels, new_slabs
from ....triton_device.policy import Persistent, Phases
from . import persistent
from .phase_launches import launch_backward_phases, launch_forward_phases


def launch_forward(
    source: Tensor, pooled: Tensor, centre: Tensor, trace: Tensor, n_iter: int, precision: str,
    choice: Persistent | Phases,
) -> None:  # fmt: skip
    """Fill ``pooled``, ``trace`` and ``centre``, of features."""
    b, c, m = source.shape
    planes, wide, triu = PLANES[precision], is_wide(source), pooled.dim() == 2
    given, align = features_of(source), alignment(m, source)
    if isinstance(choice, Phases):
        launch_forward_phases(given, pooled, centre, trace, m, n_iter, planes, wide, align, choice)
        return
    tiling, blocks = choice.tiling, choice.tiling.blocks(m)
    slabs = new_slabs(source, choice.programs, blocks * tiling.block, tangents=False)
    panels = new_panels(source, choice.programs, c, blocks * tiling.block)
    persistent.isqrt_pool_positions_persistent_forward_kernel[(choice.programs,)](
        given, pooled, centre, trace, slabs, panels, b, c, m, n_iter,
        triu, planes, wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip


def launch_backward(
    grad: Tensor, source: Tensor, centre: Tensor, trace: Tensor, grad_source: Tensor, n_iter: int, precision: str,
    choice: Persistent | Phases,
) -> None:  # fmt: skip
    """Fill ``grad_source`` from the upstream gradient and what the forward pass saved."""
    b, c, m = source.shape
    planes, wide = PLANES[precision], is_wide(source, grad, grad_source)
    upstream, given, out = matrices_of(grad), features_of(source), features_of(grad_source)
    align = alignment(m, source, grad_source)
    if isinstance(choice, Phases):
        launch_backward_phases(upstream, given, centre, trace, out, m, n_iter, planes, wide, align, choice)
        return
    tiling, blocks = choice.tiling, choice.tiling.blocks(m)
    slabs = new_slabs(source, choice.programs, blocks * tiling.block, tangents=True)
    panels = new_panels(source, choice.programs, c, blocks * tiling.block)
    persistent.isqrt_pool_positions_persistent_backward_kernel[(choice.programs,)](
        upstream, given, centre, trace, out, slabs, panels, b, c, m, n_iter,
        planes, wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
