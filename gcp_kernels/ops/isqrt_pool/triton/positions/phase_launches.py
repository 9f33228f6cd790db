"""The launches of one pass by phases on the side of the positions, in order; see ``..phase_launches``."""

from __future__ import annotations

from torch import Tensor

from ....triton_device.arguments import Features, Matrices
from ....triton_device.launch import new_panels, new_slabs
from ....triton_device.policy import Phases
from .. import phases as either_side
from ..phase_launches import launch_statistics, launch_steps
from . import phases


def launch_forward_phases(
    x: Features, pooled: Tensor, centre: Tensor, trace: Tensor, m: int, n_iter: int, planes: int, wide: bool,
    align: int, choice: Phases,
) -> None:  # fmt: skip
    """Launch the forward pass; see ``slab_launch.launch_forward``."""
    b, c = centre.shape
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(m), choice.tiling.tiles(m)
    side = blocks * tiling.block
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    inner = (blocks, tiling.block, tiling.block_k)
    launch_statistics(x, centre, trace, m, wide, align)
    parts = _gram(x, centre, trace, None, m, planes, wide, align, choice)
    slabs, panels = new_slabs(trace, b, side, tangents=False), new_panels(trace, b, c, side)
    phases.gram_start_kernel[(b * tiles,)](
        parts, trace, None, None, slabs, m, choice.splits, planes, blocks, tiling.block, **options
    )
    launch_steps(slabs, b, m, n_iter, True, False, planes, choice)
    phases.factor_kernel[(b * tiles,)](slabs, n_iter, planes, *inner, **options)
    phases.product_kernel[(b * tiling.blocks(c) * blocks,)](
        slabs, x, centre, trace, panels, c, m, n_iter, planes, wide, align, *inner, **options
    )
    phases.pooled_kernel[(b * tiling.tiles(c),)](
        panels, x, centre, trace, pooled, c, m, pooled.dim() == 2, planes, wide, align, *inner, **options
    )


def launch_backward_phases(
    grad: Matrices, x: Features, centre: Tensor, trace: Tensor, out: Features, m: int, n_iter: int, planes: int,
    wide: bool, align: int, choice: Phases,
) -> None:  # fmt: skip
    """Launch the backward pass; see ``slab_launch.launch_backward``."""
    b, c = centre.shape
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(m), choice.tiling.tiles(m)
    side, of_channels = blocks * tiling.block, tiling.blocks(c)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    inner = (blocks, tiling.block, tiling.block_k)
    largest, s_largest = trace.new_empty(b, tiling.tiles(c)), trace.new_empty(b, tiles)
    trace_terms = trace.new_empty(b, tiles)
    slabs, panels = new_slabs(trace, b, side, tangents=True), new_panels(trace, b, c, side)
    either_side.largest_kernel[(b * tiling.tiles(c),)](grad, largest, c, wide, of_channels, tiling.block, **options)
    phases.upstream_kernel[(b * of_channels * blocks,)](
        grad, x, centre, trace, largest, panels, c, m,
        wide, align, blocks, tiling.block, tiling.block_m, **options,
    )  # fmt: skip
    parts = _gram(x, centre, trace, None, m, planes, wide, align, choice)
    s_parts = _gram(x, centre, trace, panels, m, planes, wide, align, choice)
    phases.largest_part_kernel[(b * tiles,)](s_parts, s_largest, choice.splits, tiles, tiling.block, **options)
    phases.gram_start_kernel[(b * tiles,)](
        parts, trace, s_parts, s_largest, slabs, m, choice.splits, planes, blocks, tiling.block, **options
    )
    launch_steps(slabs, b, m, n_iter, True, True, planes, choice)
    phases.factor_derivative_kernel[(b * tiles,)](slabs, trace_terms, n_iter, planes, *inner, **options)
    phases.gradient_kernel[(b * of_channels * blocks,)](
        slabs, panels, x, centre, trace, largest, s_largest, trace_terms, out, c, m, n_iter,
        wide, align, *inner, **options,
    )  # fmt: skip


def _gram(
    x: Features, centre: Tensor, trace: Tensor, panels: Tensor | None, m: int, planes: int, wide: bool, align: int,
    choice: Phases,
) -> Tensor:  # fmt: skip
    """Compute parts of K, or with ``panels`` of S, each summed over a chunk of channels."""
    b, c = centre.shape
    tiling, tiles = choice.tiling, choice.tiling.tiles(m)
    parts = trace.new_empty(b, tiles, choice.splits, tiling.block, tiling.block)
    phases.gram_kernel[(b * tiles * choice.splits,)](
        x, centre, trace, panels, parts, c, m, choice.chunk, choice.splits,
        planes, wide, align, tiling.blocks(m), tiling.block, tiling.block_m,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return parts
