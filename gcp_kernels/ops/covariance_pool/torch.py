"""covariance_pool in batched products: the covariance, with an optional scale for each channel."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..shapes import empty_gradient, empty_scale_gradient, pooled_shape
from ..torch_device.batch_slices import FEW_MATRICES, slice_size, slices
from ..torch_device.features import multiply_features, subtract_centre, subtract_mean
from ..torch_device.products import matmul_precision
from ..torch_device.triangle import fold_gradient, triangle_map


def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Forward: (B, C, M), scale (B, C) -> covariance (B, C(C+1)/2) or (B, C, C), centre (B, C).

    The centre is that of :func:`subtract_mean`. The scale multiplies the centred features, and with them the covariance
    on both sides.
    """
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    pooled = x.new_empty(pooled_shape(b, c, triu))
    centre = x.new_empty(b, c, dtype=dtype)
    with matmul_precision(x.device, x.dtype, precision):
        for part in slices(b, slice_size(b, c, m, dtype, x.device, FEW_MATRICES)):
            centred, centre[part] = subtract_mean(x[part], dtype)
            if scale is not None:
                centred.mul_(scale[part, :, None].to(dtype))
            cov = torch.bmm(centred, centred.mT).div_(m)
            pooled[part] = cov.flatten(1).index_select(1, triangle_map(c, x.device)) if triu else cov
    return pooled, centre


def covariance_pool_backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, triu: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Backward: gradient of the covariance -> gradient of ``x``, laid out like it, and of the scale, (B, C) or (B, 0).

    Let G be the upstream gradient. Without a scale, the gradient of ``x`` is (G + G^T)(x - mu) / M, and that of the
    scale is empty, (B, 0). With a scale s, let H = (G + G^T) diag(s) (x - mu) / M. Then the gradient of ``x`` is
    diag(s) H, and that of s is the sum of (x - mu) o H over the positions.
    """
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    grad_x, grad_scale = empty_gradient(x), empty_scale_gradient(x, scale)
    size = slice_size(b, c, m, dtype, x.device, FEW_MATRICES)
    twice_g = x.new_empty(size, c, c, dtype=dtype)
    with matmul_precision(x.device, x.dtype, precision):
        for part in slices(b, size):
            gradient = fold_gradient(grad[part], triu, out=twice_g[: part.stop - part.start])
            centred = subtract_centre(x[part], centre[part])
            if scale is None:
                multiply_features(gradient, centred.div_(m), out=grad_x[part])
            else:
                s = scale[part, :, None].to(dtype)
                h = empty_gradient(centred)
                multiply_features(gradient, centred * (s / m), out=h)
                torch.mul(h, s, out=grad_x[part])
                grad_scale[part] = h.mul_(centred).sum(-1)
    return grad_x, grad_scale
