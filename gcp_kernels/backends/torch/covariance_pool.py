"""Plain covariance pooling, and the centring that isqrt_pool shares with it."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.shapes import empty_gradient, is_channels_last, pooled_shape

from .config import chunk_size, chunks
from .products import matmul_precision
from .triangle import fold_gradient, triangle_map


def covariance_pool(x: Tensor, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Forward: (B, C, M) -> covariance (B, C(C+1)/2) or (B, C, C), offset (B, C), see :func:`centre`."""
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    pooled = x.new_empty(pooled_shape(b, c, triu))
    offset = x.new_empty(b, c, dtype=dtype)
    with matmul_precision(x.device, x.dtype, precision):
        for part in chunks(b, chunk_size(b, c, m, dtype, x.device)):
            centred, offset[part] = centre(x[part], dtype)
            cov = torch.bmm(centred, centred.mT).div_(m)
            pooled[part] = cov.flatten(1).index_select(1, triangle_map(c, x.device)) if triu else cov
    return pooled, offset


def covariance_pool_backward(grad: Tensor, x: Tensor, offset: Tensor, triu: bool, precision: str) -> Tensor:
    """Backward: gradient of the covariance -> (G + G^T)(x - mu) / M, (B, C, M) laid out like ``x``."""
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    grad_x = empty_gradient(x)
    chunk = chunk_size(b, c, m, dtype, x.device)
    twice_g = x.new_empty(chunk, c, c, dtype=dtype)
    with matmul_precision(x.device, x.dtype, precision):
        for part in chunks(b, chunk):
            gradient = fold_gradient(grad[part], triu, out=twice_g[: part.stop - part.start])
            multiply_features(gradient, centre_again(x[part], offset[part]).div_(m), out=grad_x[part])
    return grad_x


def centre(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features (B, C, M) less their mean over M, and the mean's offset (B, C), both in ``dtype``.

    The offset is the mean less the first position. Stored so, it makes a constant channel exactly zero, and a mean much
    larger than the deviations costs no accuracy, in the backward pass either.
    """
    centred = x.to(dtype) - x[..., :1].to(dtype)
    offset = centred.mean(dim=-1, keepdim=True)
    return centred.sub_(offset), offset.squeeze(-1)


def centre_again(x: Tensor, offset: Tensor) -> Tensor:
    """The centred features of :func:`centre`, bit for bit, from the offset that it found."""
    dtype = offset.dtype
    return (x.to(dtype) - x[..., :1].to(dtype)).sub_(offset[..., None])


def multiply_features(matrix: Tensor, centred: Tensor, out: Tensor) -> None:
    """matrix @ centred into ``out``, (b, C, M) in the dtype and layout of the features; ``matrix`` is symmetric."""
    if is_channels_last(out):
        out, left, right = out.mT, centred.mT, matrix
    else:
        left, right = matrix, centred
    if out.dtype == matrix.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))
