"""The launches of one pass by phases, in order; each waits for the one before, as launches on a stream do."""

from __future__ import annotations

import torch
from torch import Tensor

from ...triton_device.arguments import Features, Matrices
from ...triton_device.launch import new_slabs
from ...triton_device.policy import Phases
from . import phases

# Channels of one program that finds centres; samples here are few, so programs are made many.
_STATISTICS_ROWS = 4
_STATISTICS_COLUMNS = 256
_TRACE_BLOCK = 64


def launch_forward_phases(
    source: Features | Matrices, pooled: Tensor, centre: Tensor | None, trace: Tensor, m: int, n_iter: int,
    planes: int, wide: bool, align: int, choice: Phases,
) -> None:  # fmt: skip
    """Launch the forward pass; see ``launch.launch_forward``."""
    b, c = source.data.shape[:2]
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(c), choice.tiling.tiles(c)
    if centre is None:
        phases.matrix_trace_kernel[(b,)](source, trace, c, wide, _TRACE_BLOCK)
    else:
        launch_statistics(source, centre, trace, m, wide, align)
    slabs = new_slabs(trace, b, blocks * tiling.block, tangents=False)
    _launch_start(source, centre, trace, None, None, slabs, m, n_iter, planes, wide, align, choice)
    launch_steps(slabs, b, c, n_iter, False, False, planes, choice)
    phases.root_kernel[(b * tiles,)](
        slabs, trace, pooled, c, n_iter, pooled.dim() == 2, planes, blocks, tiling.block, tiling.block_k,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip


def launch_backward_phases(
    grad: Matrices, source: Features | Matrices, centre: Tensor | None, trace: Tensor, out: Features | Tensor, m: int,
    n_iter: int, planes: int, wide: bool, align: int, choice: Phases,
) -> None:  # fmt: skip
    """Launch the backward pass; see ``launch.launch_backward``."""
    b, c = source.data.shape[:2]
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(c), choice.tiling.tiles(c)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    largest = trace.new_empty(b, tiles)
    trace_terms = torch.empty_like(largest)
    phases.largest_kernel[(b * tiles,)](grad, largest, c, wide, blocks, tiling.block, **options)
    slabs = new_slabs(trace, b, blocks * tiling.block, tangents=True)
    _launch_start(source, centre, trace, grad, largest, slabs, m, n_iter, planes, wide, align, choice)
    launch_steps(slabs, b, c, n_iter, False, True, planes, choice)
    phases.derivative_kernel[(b * tiles,)](
        slabs, trace_terms, n_iter, planes, blocks, tiling.block, tiling.block_k, **options
    )
    if centre is None:
        phases.matrix_gradient_kernel[(b * tiles,)](
            slabs, trace, largest, trace_terms, out, c, n_iter, blocks, tiling.block, **options
        )
    else:
        strips = -(-m // tiling.block_m)
        phases.feature_gradient_kernel[(b * blocks * strips,)](
            slabs, source, centre, trace, largest, trace_terms, out, c, m, n_iter,
            wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m, **options,
        )  # fmt: skip


def launch_statistics(x: Features | Matrices, centre: Tensor, trace: Tensor, m: int, wide: bool, align: int) -> None:
    """Fill ``centre`` and ``trace``, of features."""
    b, c = centre.shape
    count = -(-c // _STATISTICS_ROWS)
    squares = centre.new_empty(b, count)  # parts of the sums of squared deviations
    phases.statistics_kernel[(b * count,)](x, centre, squares, c, m, wide, align, _STATISTICS_ROWS, _STATISTICS_COLUMNS)
    phases.trace_kernel[(b,)](squares, trace, m, count)


def _launch_start(
    source: Features | Matrices, centre: Tensor | None, trace: Tensor, grad: Matrices | None, largest: Tensor | None,
    slabs: Tensor, m: int, n_iter: int, planes: int, wide: bool, align: int, choice: Phases,
) -> None:  # fmt: skip
    """Fill the slabs with A and, where there is an upstream gradient, with its tangent."""
    b, c = source.data.shape[:2]
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(c), choice.tiling.tiles(c)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    parts = None
    if centre is not None:
        parts = trace.new_empty(b, tiles, choice.splits, tiling.block, tiling.block)
        phases.covariance_kernel[(b * tiles * choice.splits,)](
            source, centre, trace, parts, c, m, choice.chunk, choice.splits,
            planes, wide, align, blocks, tiling.block, tiling.block_m, **options,
        )  # fmt: skip
    matrices, of_trace = (None, None) if centre is not None else (source, trace)
    phases.start_kernel[(b * tiles,)](
        parts, matrices, of_trace, grad, largest, slabs, c, n_iter, choice.splits,
        planes, wide, blocks, tiling.block, **options,
    )  # fmt: skip


def launch_steps(
    slabs: Tensor, b: int, side: int, n_iter: int, factor: bool, tangents: bool, planes: int, choice: Phases
) -> None:
    """Take all steps but the last of the iteration on (side, side) matrices; for ``factor`` see ``iteration``."""
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(side), choice.tiling.tiles(side)
    constants = (tangents, planes, blocks, tiling.block, tiling.block_k)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    for step in range(n_iter - 1):
        phases.square_kernel[(b * (tiles if step == 0 else 2 * tiles),)](slabs, step, *constants, **options)
        phases.cube_kernel[(b * tiles,)](slabs, step, n_iter, factor, *constants, **options)
