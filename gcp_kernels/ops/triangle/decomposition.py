"""triu_vec and triu_unvec in operators of torch."""

import torch
from torch import Tensor

from ..shapes import triangle_order
from ..standard_operators import read_triangle
from ..torch_device.triangle import new_symmetric_map


def triu_vec(matrix: Tensor, fold: bool) -> Tensor:
    """Read upper triangles, (B, C, C) -> (B, C(C+1)/2); ``fold`` adds to each off-diagonal element its mirror image."""
    if fold:
        matrix = matrix + matrix.mT - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
    return read_triangle(matrix)


def triu_unvec(vector: Tensor, mirror: bool) -> Tensor:
    """Write upper triangles, (B, C(C+1)/2) -> (B, C, C): symmetric with ``mirror``, else zero below the diagonal."""
    c = triangle_order(vector.shape[1])
    matrix = vector.index_select(1, new_symmetric_map(c, vector.device)).unflatten(1, (c, c))
    return matrix if mirror else matrix.triu()
