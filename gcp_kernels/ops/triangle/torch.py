"""Upper triangles of square matrices, by gathering with index maps."""

import torch
from torch import Tensor

from ..shapes import triangle_order
from ..torch_device.triangle import symmetric_map, triangle_map


def triu_vec(matrix: Tensor, fold: bool) -> Tensor:
    """Upper triangles (B, C(C+1)/2) of (B, C, C); ``fold`` adds the mirrored element to each off-diagonal one."""
    b, c, _ = matrix.shape
    if fold:
        matrix = matrix + matrix.mT - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
    return matrix.reshape(b, c * c).index_select(1, triangle_map(c, matrix.device))


def triu_unvec(vector: Tensor, mirror: bool) -> Tensor:
    """Matrices (B, C, C) from upper triangles (B, C(C+1)/2): symmetric with ``mirror``, else zero below."""
    b, c = vector.shape[0], triangle_order(vector.shape[1])
    # Not a view, which autograd would not let a user change in place.
    matrix = vector.new_empty(b, c, c)
    torch.index_select(vector, 1, symmetric_map(c, vector.device), out=matrix.view(b, c * c))
    return matrix if mirror else matrix.triu_()
