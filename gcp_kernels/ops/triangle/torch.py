"""triu_vec and triu_unvec by index maps: each element of the result is gathered from its place."""

import torch
from torch import Tensor

from ..shapes import triangle_order
from ..torch_device.triangle import symmetric_map, triangle_map


def triu_vec(matrix: Tensor, fold: bool) -> Tensor:
    """Read upper triangles, (B, C, C) -> (B, C(C+1)/2); ``fold`` adds to each off-diagonal element its mirror image."""
    b, c, _ = matrix.shape
    if fold:
        matrix = matrix + matrix.mT - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
    return matrix.reshape(b, c * c).index_select(1, triangle_map(c, matrix.device))


def triu_unvec(vector: Tensor, mirror: bool) -> Tensor:
    """Write upper triangles, (B, C(C+1)/2) -> (B, C, C): symmetric with ``mirror``, else zero below the diagonal."""
    b, c = vector.shape[0], triangle_order(vector.shape[1])
    # The result must not be a view, because autograd would not let a user change it in place.
    matrix = vector.new_empty(b, c, c)
    torch.index_select(vector, 1, symmetric_map(c, vector.device), out=matrix.view(b, c * c))
    return matrix if mirror else matrix.triu_()
