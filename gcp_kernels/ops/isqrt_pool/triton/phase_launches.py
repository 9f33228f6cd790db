"""The launches of one pass by phases, in order; each waits for the one before, as launches on a stream do."""

from __future__ import annotations

import torch
from torch import Tensor

from ...triton_device.launch import matrix_strides, new_slabs
from ...triton_device.policy import Phases
from . import phases

# Channels of one program that finds means; samples here are few, so programs are made many.
_STATISTICS_ROWS = 4
_STATISTICS_COLUMNS = 256
_TRACE_BLOCK = 64


def launch_forward_phases(
    source: Tensor, pooled: Tensor, offset: Tensor, trace: Tensor, m: int, n_iter: int, features: bool, triu: bool,
    planes: int, wide: bool, align: int, choice: Phases,
) -> None:  # fmt: skip
    """The forward pass; see ``isqrt.launch_forward``."""
    b, c = source.shape[:2]
    tiling, tiles = choice.tiling, choice.tiling.tiles(c)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    squares = _launch_statistics(source, offset, m, wide, align) if features else trace
    phases.trace_kernel[(b,)](
        source, squares, trace, c, m, squares.shape[-1], *source.stride(), features, wide, _TRACE_BLOCK
    )
    slabs = new_slabs(source, b, tiling.blocks(c) * tiling.block, tangents=False)
    parts = _launch_covariance(source, offset, trace, m, planes, wide, align, choice) if features else trace
    phases.start_kernel[(b * tiles,)](
        source, parts, trace, trace, trace, slabs, c, n_iter, choice.splits, *source.stride(), 0, 0, 0,
        features, False, triu, planes, wide, tiling.blocks(c), tiling.block, **options,
    )  # fmt: skip
    _launch_steps(slabs, b, c, n_iter, False, planes, choice)
    phases.root_kernel[(b * tiles,)](
        slabs, trace, pooled, c, n_iter, triu, planes, tiling.blocks(c), tiling.block, tiling.block_k, **options
    )


def launch_backward_phases(
    grad: Tensor, source: Tensor, offset: Tensor, trace: Tensor, grad_source: Tensor, m: int, n_iter: int,
    features: bool, triu: bool, planes: int, wide: bool, align: int, choice: Phases,
) -> None:  # fmt: skip
    """The backward pass; see ``isqrt.launch_backward``."""
    b, c = source.shape[:2]
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(c), choice.tiling.tiles(c)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    largest = trace.new_empty(b, tiles)
    diagonals = torch.empty_like(largest)
    phases.largest_kernel[(b * tiles,)](
        grad, largest, c, *matrix_strides(grad), triu, wide, blocks, tiling.block, **options
    )
    slabs = new_slabs(source, b, blocks * tiling.block, tangents=True)
    parts = _launch_covariance(source, offset, trace, m, planes, wide, align, choice) if features else trace
    phases.start_kernel[(b * tiles,)](
        source, parts, trace, grad, largest, slabs, c, n_iter, choice.splits, *source.stride(), *matrix_strides(grad),
        features, True, triu, planes, wide, blocks, tiling.block, **options,
    )  # fmt: skip
    _launch_steps(slabs, b, c, n_iter, True, planes, choice)
    phases.derivative_kernel[(b * tiles,)](
        slabs, diagonals, n_iter, planes, blocks, tiling.block, tiling.block_k, **options
    )
    if features:
        strips = -(-m // tiling.block_m)
        phases.feature_gradient_kernel[(b * blocks * strips,)](
            slabs, source, offset, trace, largest, diagonals, grad_source, c, m, n_iter, *source.stride(),
            *grad_source.stride(), wide, align, blocks, tiling.block, tiling.block_k, tiling.block_m, **options,
        )  # fmt: skip
    else:
        phases.matrix_gradient_kernel[(b * tiles,)](
            slabs, trace, largest, diagonals, grad_source, c, n_iter, blocks, tiling.block, **options
        )


def _launch_statistics(x: Tensor, offset: Tensor, m: int, wide: bool, align: int) -> Tensor:
    """Fills ``offset``; returns parts of the sums of squared deviations, (B, parts)."""
    b, c = offset.shape
    count = -(-c // _STATISTICS_ROWS)
    squares = offset.new_empty(b, count)
    phases.statistics_kernel[(b * count,)](
        x, offset, squares, c, m, *x.stride(), wide, align, _STATISTICS_ROWS, _STATISTICS_COLUMNS
    )
    return squares


def _launch_covariance(
    x: Tensor, offset: Tensor, trace: Tensor, m: int, planes: int, wide: bool, align: int, choice: Phases
) -> Tensor:
    """Parts of the tiles of A."""
    b, c = offset.shape
    tiling, tiles = choice.tiling, choice.tiling.tiles(c)
    parts = offset.new_empty(b, tiles, choice.splits, tiling.block, tiling.block)
    phases.covariance_kernel[(b * tiles * choice.splits,)](
        x, offset, trace, parts, c, m, choice.span, choice.splits, *x.stride(),
        planes, wide, align, tiling.blocks(c), tiling.block, tiling.block_m,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return parts


def _launch_steps(slabs: Tensor, b: int, c: int, n_iter: int, tangents: bool, planes: int, choice: Phases) -> None:
    """All steps of the iteration but the last."""
    tiling, blocks, tiles = choice.tiling, choice.tiling.blocks(c), choice.tiling.tiles(c)
    constants = (tangents, planes, blocks, tiling.block, tiling.block_k)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    for step in range(n_iter - 1):
        phases.square_kernel[(b * (tiles if step == 0 else 2 * tiles),)](slabs, step, *constants, **options)
        phases.cube_kernel[(b * tiles,)](slabs, step, *constants, **options)
