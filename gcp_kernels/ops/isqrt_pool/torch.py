"""isqrt_pool in batched products: (B, C, M) -> sqrt(t) Y_N of the covariance, one slice of the batch after another.

Here are the parts that both sides share, and the side of the channels; that of the positions is in
``torch_positions.py``.
"""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..shapes import empty_gradient, empty_iterates, keeps_iterates, pooled_shape
from ..sides import POSITIONS
from ..torch_device.batch_slices import FEW_MATRICES, ITERATED, slice_size, slices
from ..torch_device.features import multiply_features, subtract_centre, subtract_mean
from ..torch_device.iteration import newton_schulz
from ..torch_device.normalisation import GradientScratch, inverse_root, normalise
from ..torch_device.products import iteration_precision
from ..torch_device.side import iterated_size, side_of
from ..torch_device.storage import IterateStorage
from ..torch_device.triangle import triangle_map
from .torch_positions import PositionScratch, start_on_positions, write_pooled


def isqrt_pool(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> pooled (B, C(C+1)/2) or (B, C, C), centre (B, C), trace (B,), iterates.

    The centre is the mean less the first position (see :func:`subtract_mean`). The iterates are (B, 2N, s, s), where s
    is C or M by the side, or (B, 0, C, C) if they are not kept.
    """
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=dtype)
    trace = x.new_empty(b, dtype=dtype)
    side = iterated_size(c, m)
    keep = keeps_iterates(x, keep_iterates, "torch")
    kept = empty_iterates(x, side if keep else c, n_iter, keep)
    on_positions, size = _course(x)
    start = start_on_positions if on_positions else start_on_channels
    storage = IterateStorage(kept, n_iter, size, side, of_root=not on_positions)
    with iteration_precision(x.device, x.dtype, precision):
        for part in slices(b, size):
            iterates = storage[part]
            centred, centre[part] = subtract_mean(x[part], dtype)
            trace[part] = start(centred, out=iterates.w[0])
            last = newton_schulz(iterates)
            if on_positions:
                write_pooled(iterates, centred, trace[part], triu, out=pooled[part])
                continue
            if triu:
                last = last.flatten(1).index_select(1, triangle_map(c, x.device))
            scale = trace[part].sqrt()
            torch.mul(last, scale[:, None] if triu else scale[:, None, None], out=pooled[part])
    return pooled, centre, trace, kept


def isqrt_pool_backward(
    grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, triu: bool, precision: str
) -> Tensor:
    """Backward: gradient of the pooled features -> gradient of ``x``, (B, C, M) laid out like ``x``."""
    b, c, m = x.shape
    grad_x = empty_gradient(x)
    side = iterated_size(c, m)
    on_positions, size = _course(x)
    start = start_on_positions if on_positions else start_on_channels
    storage = IterateStorage(iterates, n_iter, size, side, of_root=not on_positions)
    scratch = GradientScratch(trace, size, side)
    features = PositionScratch(trace, size, x) if on_positions else None
    with iteration_precision(x.device, x.dtype, precision):
        for part in slices(b, size):
            saved = storage[part]
            centred = subtract_centre(x[part], centre[part])
            if not iterates.shape[1]:
                start(centred, out=saved.w[0])
                newton_schulz(saved)
            if features is not None:
                features.write_gradient(scratch, saved, centred, trace[part], grad[part], triu, out=grad_x[part])
            else:
                gradient = scratch.covariance_gradient(saved, grad[part], triu)
                multiply_features(gradient, centred.mul_(inverse_root(trace[part]) / m), out=grad_x[part])
    return grad_x


def _course(x: Tensor) -> tuple[bool, int]:
    """Say whether the iteration of features (B, C, M) is on the side of the positions, and how large slices are."""
    b, c, m = x.shape
    on_positions = side_of(c, m) == POSITIONS
    config = FEW_MATRICES if on_positions else ITERATED
    return on_positions, slice_size(b, c, m, accumulation_dtype(x.dtype), x.device, config)


def start_on_channels(centred: Tensor, out: Tensor) -> Tensor:
    """Write A = Sigma / t (b, C, C) into ``out`` from x - mu (b, C, M); return the traces t (b,)."""
    torch.bmm(centred, centred.mT, out=out)
    return normalise(out) / centred.shape[-1]
