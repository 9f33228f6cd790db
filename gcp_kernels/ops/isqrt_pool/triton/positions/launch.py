"""Launches of isqrt_pool on the side of the positions; see ``isqrt_pool/triton/launch.py`` for arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.precision import PLANES

from ....triton_device.arguments import features_of, matrices_of
from ....triton_device.launch import alignment, is_wide
from ....triton_device.policy import Config, OnChip
from . import on_chip, slab_launch

# From so many positions on, "high" has W wait in memory for Z: the planes of two products and six matrices would spill.
_WAITING_FROM = 64


def launch_forward(
    x: Tensor, pooled: Tensor, centre: Tensor, trace: Tensor, n_iter: int, precision: str, choice: Config
) -> None:
    """Fill ``pooled``, ``centre`` and ``trace``."""
    if not isinstance(choice, OnChip):
        slab_launch.launch_forward(x, pooled, centre, trace, n_iter, precision, choice)
        return
    b, c, m = x.shape
    given, triu = features_of(x), pooled.dim() == 2
    # Blocks of channels and of positions, and how features are read.
    constants = (is_wide(x), alignment(m, x), choice.block_c, choice.block_m)
    options = {"num_warps": choice.warps, "num_stages": choice.stages}
    factor = trace.new_empty(b, choice.block_m, choice.block_m) if choice.shared else None
    on_chip.isqrt_pool_positions_forward_kernel[(b,)](
        given, pooled, centre, trace, factor, c, m, n_iter, triu, PLANES[precision], *constants, **options
    )
    if choice.shared:
        on_chip.isqrt_pool_positions_rows_kernel[(b * choice.blocks(c),)](
            given, pooled, centre, trace, factor, c, m, n_iter, triu, *constants, **options
        )


def launch_backward(
    grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, grad_x: Tensor, n_iter: int, precision: str, choice: Config
) -> None:
    """Fill ``grad_x``."""
    if not isinstance(choice, OnChip):
        slab_launch.launch_backward(grad, x, centre, trace, grad_x, n_iter, precision, choice)
        return
    b, c, m = x.shape
    upstream, given, out = matrices_of(grad), features_of(x), features_of(grad_x)
    planes = PLANES[precision]
    constants = (is_wide(x, grad, grad_x), alignment(m, x, grad_x), choice.block_c, choice.block_m)
    options = {"num_warps": choice.warps, "num_stages": choice.stages}
    blocks = choice.blocks(c)
    products = trace.new_empty(b, blocks * choice.block_c, choice.block_m)
    largest, spans = trace.new_empty(b, blocks), trace.new_empty(b)
    squares = trace.new_empty(b, 2, choice.block_m, choice.block_m)
    history = None
    if planes == 2 and choice.block_m >= _WAITING_FROM:
        history = trace.new_empty(b, n_iter - 1, 4, choice.block_m, choice.block_m, dtype=torch.float16)
    if choice.shared:
        on_chip.isqrt_pool_positions_direction_kernel[(b * blocks,)](
            upstream, given, centre, trace, products, largest, c, m, *constants, **options
        )
    on_chip.isqrt_pool_positions_backward_kernel[(b,)](
        upstream, given, centre, trace, out, products, largest, squares, history, spans, c, m, n_iter,
        choice.shared, planes, *constants, **options,
    )  # fmt: skip
    if choice.shared:
        on_chip.isqrt_pool_positions_gradient_kernel[(b * blocks,)](
            given, centre, trace, out, products, largest, squares, spans, c, m, n_iter, *constants, **options
        )
