"""isqrt_pool in batched products: (B, C, M) -> sqrt(t) Y_N of the covariance, one slice of the batch after another."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..shapes import empty_gradient, empty_iterates, keeps_iterates, pooled_shape
from ..torch_device.batch_slices import slice_size, slices
from ..torch_device.features import multiply_features, subtract_centre, subtract_mean
from ..torch_device.iteration import newton_schulz
from ..torch_device.normalisation import GradientScratch, inverse_root, normalise
from ..torch_device.products import matmul_precision
from ..torch_device.storage import IterateStorage
from ..torch_device.triangle import triangle_map


def isqrt_pool(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> pooled (B, C(C+1)/2) or (B, C, C), centre (B, C), trace (B,), iterates.

    The centre is the mean less the first position (see :func:`subtract_mean`). The iterates are (B, 2N, C, C), or
    (B, 0, C, C) if they are not kept.
    """
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=dtype)
    trace = x.new_empty(b, dtype=dtype)
    kept = empty_iterates(x, c, n_iter, keeps_iterates(x, keep_iterates, "torch"))
    size = slice_size(b, c, m, dtype, x.device)
    storage = IterateStorage(kept, n_iter, size)
    with matmul_precision(x.device, x.dtype, precision):
        for part in slices(b, size):
            iterates = storage[part]
            centred, centre[part] = subtract_mean(x[part], dtype)
            torch.bmm(centred, centred.mT, out=iterates.w[0])
            trace[part] = normalise(iterates.w[0]) / m
            root = newton_schulz(iterates)
            if triu:
                root = root.flatten(1).index_select(1, triangle_map(c, x.device))
            scale = trace[part].sqrt()
            torch.mul(root, scale[:, None] if triu else scale[:, None, None], out=pooled[part])
    return pooled, centre, trace, kept


def isqrt_pool_backward(
    grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, triu: bool, precision: str
) -> Tensor:
    """Backward: gradient of the pooled features -> gradient of ``x``, (B, C, M) laid out like ``x``."""
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    grad_x = empty_gradient(x)
    size = slice_size(b, c, m, dtype, x.device)
    storage = IterateStorage(iterates, n_iter, size)
    scratch = GradientScratch(iterates, size)
    with matmul_precision(x.device, x.dtype, precision):
        for part in slices(b, size):
            saved = storage[part]
            centred = subtract_centre(x[part], centre[part])
            if not iterates.shape[1]:
                torch.bmm(centred, centred.mT, out=saved.w[0])
                normalise(saved.w[0])
                newton_schulz(saved)
            gradient = scratch.covariance_gradient(saved, grad[part], triu)
            multiply_features(gradient, centred.mul_(inverse_root(trace[part]) / m), out=grad_x[part])
    return grad_x
