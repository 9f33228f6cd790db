"""isqrt_pool: iSQRT-COV pooling of (B, C, M) features by csrc/isqrt_pool."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_kernels.precision import PLANES, resolve_precision
from gcp_kernels.shapes import empty_gradient, empty_iterates, pooled_shape

from .extension import operators


def isqrt_pool(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> pooled (B, C(C+1)/2) or (B, C, C), offset (B, C), trace (B,), no iterates (B, 0, C, C)."""
    b, c, _ = x.shape
    pooled = x.new_empty(pooled_shape(b, c, triu))
    offset = x.new_empty(b, c, dtype=torch.float32)
    trace = x.new_empty(b, dtype=torch.float32)
    planes = PLANES[resolve_precision(precision, x.dtype)]
    operators("isqrt_pool").isqrt_pool(x, n_iter, triu, planes, pooled, offset, trace)
    return pooled, offset, trace, empty_iterates(x, c, n_iter, False)


def isqrt_pool_backward(
    grad: Tensor, x: Tensor, offset: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, triu: bool, precision: str
) -> Tensor:
    """Backward: gradient of the pooled features -> gradient of ``x``, (B, C, M) laid out like ``x``."""
    grad_x = empty_gradient(x)
    planes = PLANES[resolve_precision(precision, x.dtype)]
    operators("isqrt_pool").isqrt_pool_backward(grad, x, offset, trace, n_iter, triu, planes, grad_x)
    return grad_x
