"""triu_vec and triu_unvec: the upper triangle read from matrices and written to them, by csrc/triangle."""

from __future__ import annotations

from torch import Tensor

from ..cuda_device.extension import operators


def triu_vec(matrix: Tensor, fold: bool) -> Tensor:
    """Read upper triangles: (B, C, C), any strides -> (B, C(C+1)/2), contiguous, row by row, diagonal included.

    With ``fold`` each element below the diagonal is added to its mirror image above it, which is the adjoint of
    :func:`triu_unvec` with ``mirror``. Without it, elements below the diagonal are ignored.

    Raises:
        RuntimeError: the extension cannot be loaded, or rejects the tensor (device, dtype, shape), or the
            launch fails.
    """
    return operators("triu_vec").triu_vec(matrix, fold)


def triu_unvec(vector: Tensor, mirror: bool) -> Tensor:
    """Write upper triangles into matrices: (B, C(C+1)/2), any strides -> (B, C, C), contiguous.

    With ``mirror`` the elements below the diagonal are the mirror image of those above. Without it they are zero, which
    is the adjoint of :func:`triu_vec` without ``fold``.

    Raises:
        RuntimeError: as for :func:`triu_vec`.
    """
    return operators("triu_unvec").triu_unvec(vector, mirror)
