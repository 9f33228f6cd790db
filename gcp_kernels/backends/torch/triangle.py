"""Upper triangles of square matrices, by gathering with index maps."""

from functools import lru_cache

import torch
from torch import Tensor

from gcp_kernels.shapes import triangle_order


def triangle_map(c: int, device: torch.device) -> Tensor:
    """Flat position i * C + j of each element of the row-major upper triangle, shape (C(C+1)/2,)."""
    return _cpu_triangle_map(c) if device.type == "cpu" else _triangle_map(c, device)


def symmetric_map(c: int, device: torch.device) -> Tensor:
    """Position in the triangle vector of each element of the symmetric (C, C) matrix, flat, shape (C * C,)."""
    return _cpu_symmetric_map(c) if device.type == "cpu" else _symmetric_map(c, device)


def _triangle_map(c: int, device: torch.device) -> Tensor:
    rows, columns = torch.triu_indices(c, c, device=device)
    return rows * c + columns


def _symmetric_map(c: int, device: torch.device) -> Tensor:
    i = torch.arange(c, device=device)
    low, high = torch.minimum(i[:, None], i), torch.maximum(i[:, None], i)
    return (low * c - low * (low - 1) // 2 + high - low).flatten()


# Kept on the CPU only, where making them takes as long as using them. A tensor made while a CUDA graph is captured
# belongs to that graph's memory and must not be kept.
@lru_cache(maxsize=8)
def _cpu_triangle_map(c: int) -> Tensor:
    return _triangle_map(c, torch.device("cpu"))


@lru_cache(maxsize=8)
def _cpu_symmetric_map(c: int) -> Tensor:
    return _symmetric_map(c, torch.device("cpu"))


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


def fold_gradient(grad: Tensor, triu: bool, out: Tensor) -> Tensor:
    """2 G = Gbar + Gbar^T in ``out`` (b, C, C), Gbar being zero below the diagonal for a triangle gradient."""
    b, c, _ = out.shape
    grad = grad.to(out.dtype)
    if not triu:
        return torch.add(grad, grad.mT, out=out)
    torch.index_select(grad, 1, symmetric_map(c, grad.device), out=out.view(b, c * c))
    out.diagonal(dim1=-2, dim2=-1).mul_(2)
    return out
