"""isqrt_pool: iSQRT-COV pooling of (B, C, M) features by csrc/isqrt_pool, on either side."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.ops.shapes import empty_gradient, empty_iterates, pooled_shape
from gcp_kernels.precision import PLANES, resolve_precision

from ..cuda_device.extension import operators
from ..cuda_device.side import side_of
from ..sides import POSITIONS


def isqrt_pool(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> pooled (B, C(C+1)/2) or (B, C, C), centre (B, C), trace (B,), no iterates (B, 0, C, C)."""
    b, c, m = x.shape
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=torch.float32)
    trace = x.new_empty(b, dtype=torch.float32)
    planes = PLANES[resolve_precision(precision, x.dtype)]
    operators("isqrt_pool").isqrt_pool(x, n_iter, triu, planes, on_positions(c, m), pooled, centre, trace)
    return pooled, centre, trace, empty_iterates(x, c, n_iter, False)


def isqrt_pool_inference(x: Tensor, n_iter: int, triu: bool, precision: str) -> Tensor:
    """Pool as :func:`isqrt_pool` does, by the operator that exported programs call: it allocates its only result."""
    planes = PLANES[resolve_precision(precision, x.dtype)]
    return operators("isqrt_pool").isqrt_pool_inference(x, n_iter, triu, planes, on_positions(x.shape[1], x.shape[2]))


def isqrt_pool_backward(
    grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, triu: bool, precision: str
) -> Tensor:
    """Backward: gradient of the pooled features -> gradient of ``x``, (B, C, M) laid out like ``x``."""
    grad_x = empty_gradient(x)
    planes = PLANES[resolve_precision(precision, x.dtype)]
    positions = on_positions(x.shape[1], x.shape[2])
    operators("isqrt_pool").isqrt_pool_backward(grad, x, centre, trace, n_iter, triu, planes, positions, grad_x)
    return grad_x


def on_positions(c: int, m: int) -> bool:
    """Whether the kernels iterate on the side of the positions."""
    return side_of(c, m) == POSITIONS
