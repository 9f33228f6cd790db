"""The upper triangles of symmetric matrices as vectors, and the way back."""

from math import prod

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_floating, check_matrices

from ..arguments import check_arithmetic, takes_reference
from ..override import overridable
from ..shapes import triangle_order, triangle_size
from . import operator


@overridable
def triu_vec(m: Tensor, *, backend: str | None = None) -> Tensor:
    """Read the upper triangle of square matrices, row by row, diagonal included, without any factor.

    Args:
        m: (..., C, C), floating point. Elements below the diagonal are not read, and get zero gradient.
        backend: as for :func:`fused_gcp`.

    Returns:
        (..., C(C+1)/2), in the dtype of ``m``.

    Raises:
        TypeError: ``m`` is not a floating-point tensor.
        ValueError: ``m`` is not (..., C, C) with C >= 1, or the backend is unknown.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.triu_vec(torch.arange(9.0).view(3, 3))
        tensor([0., 1., 2., 4., 5., 8.])
    """
    check_matrices("m", m)
    _, backend = check_arithmetic(None, backend)
    if takes_reference(backend):
        return reference.triu_vec(m)
    c = m.shape[-1]
    return operator.triu_vec(m.reshape(prod(m.shape[:-2]), c, c), False, backend).view(*m.shape[:-2], triangle_size(c))


@overridable
def triu_unvec(v: Tensor, *, backend: str | None = None) -> Tensor:
    """Make symmetric matrices of their upper triangles: the inverse of :func:`triu_vec`.

    Args:
        v: (..., C(C+1)/2), floating point.
        backend: as for :func:`fused_gcp`.

    Returns:
        (..., C, C), symmetric, in the dtype of ``v``.

    Raises:
        TypeError: ``v`` is not a floating-point tensor.
        ValueError: the last dimension is not C(C+1)/2 for any C >= 1, or the backend is unknown.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.triu_unvec(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[1., 2.],
                [2., 3.]])
    """
    check_floating("v", v)
    if v.dim() == 0 or v.shape[-1] == 0:
        raise ValueError(f"v must have shape (..., C(C+1)/2) with C >= 1, got {tuple(v.shape)}")
    c = triangle_order(v.shape[-1])
    _, backend = check_arithmetic(None, backend)
    if takes_reference(backend):
        return reference.triu_unvec(v)
    return operator.triu_unvec(v.reshape(prod(v.shape[:-1]), v.shape[-1]), True, backend).view(*v.shape[:-1], c, c)
