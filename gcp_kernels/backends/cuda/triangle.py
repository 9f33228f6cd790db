"""triu_vec and triu_unvec: the upper triangle read from matrices and written to them, by csrc/triangle."""

from __future__ import annotations

from torch import Tensor

from .extension import operators


def triu_vec(matrix: Tensor, fold: bool) -> Tensor:
    """(B, C, C), any strides -> (B, C(C+1)/2), contiguous: the row-major upper triangle, diagonal included.

    With ``fold`` the element below the diagonal is added to its mirror image above it, which is the adjoint
    of :func:`triu_unvec` with ``mirror``; without, it is ignored. Not differentiable by itself.

    Raises:
        RuntimeError: the extension cannot be loaded, or rejects the tensor (device, dtype, shape), or the
            launch fails.
    """
    return operators("triu_vec").triu_vec(matrix, fold)


def triu_unvec(vector: Tensor, mirror: bool) -> Tensor:
    """(B, C(C+1)/2), any strides -> (B, C, C), contiguous: the upper triangle put back.

    Below the diagonal stands the mirror image with ``mirror``, else zero, which is the adjoint of
    :func:`triu_vec` without ``fold``. Not differentiable by itself.

    Raises:
        RuntimeError: as for :func:`triu_vec`.
    """
    return operators("triu_unvec").triu_unvec(vector, mirror)
