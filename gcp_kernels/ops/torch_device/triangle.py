"""Index maps of upper triangles, and the gradient of a triangle as a symmetric matrix."""

from functools import lru_cache

import torch
from torch import Tensor


def triangle_map(c: int, device: torch.device) -> Tensor:
    """Map each element of the row-major upper triangle to its flat index i * C + j in the matrix, shape (C(C+1)/2,)."""
    return _cpu_triangle_map(c) if device.type == "cpu" else new_triangle_map(c, device)


def symmetric_map(c: int, device: torch.device) -> Tensor:
    """Map each element of the symmetric (C, C) matrix, flat, to its packed index in the triangle, shape (C * C,)."""
    return _cpu_symmetric_map(c) if device.type == "cpu" else new_symmetric_map(c, device)


def new_triangle_map(c: int, device: torch.device) -> Tensor:
    """Make a :func:`triangle_map` that is not kept: for a tracer, whose tensors have no values."""
    rows, columns = torch.triu_indices(c, c, device=device)
    return rows * c + columns


def new_symmetric_map(c: int, device: torch.device) -> Tensor:
    """Make a :func:`symmetric_map` that is not kept."""
    i = torch.arange(c, device=device)
    low, high = torch.minimum(i[:, None], i), torch.maximum(i[:, None], i)
    return (low * c - low * (low - 1) // 2 + high - low).flatten()


# Maps are cached on the CPU only, where making one takes as long as using it. On a GPU a map must not be cached: if it
# is made while a CUDA graph is captured, it belongs to that graph's memory.
@lru_cache(maxsize=8)
def _cpu_triangle_map(c: int) -> Tensor:
    return new_triangle_map(c, torch.device("cpu"))


@lru_cache(maxsize=8)
def _cpu_symmetric_map(c: int) -> Tensor:
    return new_symmetric_map(c, torch.device("cpu"))


def fold_gradient(grad: Tensor, triu: bool, out: Tensor) -> Tensor:
    """Write 2 G = Gbar + Gbar^T into ``out`` (b, C, C), where Gbar is the upstream gradient.

    For the gradient of a triangle, (b, C(C+1)/2), Gbar is the matrix that is zero below the diagonal.
    """
    b, c, _ = out.shape
    grad = grad.to(out.dtype)
    if not triu:
        return torch.add(grad, grad.mT, out=out)
    torch.index_select(grad, 1, symmetric_map(c, grad.device), out=out.view(b, c * c))
    out.diagonal(dim1=-2, dim2=-1).mul_(2)
    return out


# Rows of a product that are computed at a time where only its triangle is wanted.
STRIP_ROWS = 128


def strip_map(c: int, device: torch.device) -> Tensor:
    """Map the upper triangle to the elements of strips of rows, shape (C(C+1)/2,).

    A strip is STRIP_ROWS rows of the matrix from the first one's diagonal element on to the right. The index of an
    element is its flat index in its strip.
    """
    return _cpu_strip_map(c) if device.type == "cpu" else _strip_map(c, device)


def _strip_map(c: int, device: torch.device) -> Tensor:
    maps = []
    for width in range(c, 0, -STRIP_ROWS):
        rows, columns = torch.triu_indices(min(STRIP_ROWS, width), width, device=device)
        maps.append(rows * width + columns)
    return torch.cat(maps)


@lru_cache(maxsize=8)
def _cpu_strip_map(c: int) -> Tensor:
    return _strip_map(c, torch.device("cpu"))


def multiply_to_triangle(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write the upper triangles of the products of ``left`` (b, C, M) and ``right`` (b, M, C) into ``out``.

    A strip at a time, so that little of what is below the diagonal is computed at all.
    """
    c = left.shape[1]
    index = strip_map(c, left.device)
    start = 0
    for row in range(0, c, STRIP_ROWS):
        rows = min(STRIP_ROWS, c - row)
        stop = start + rows * (c - row) - rows * (rows - 1) // 2
        strip = torch.bmm(left[:, row : row + rows], right[:, :, row:]).flatten(1)
        if rows == c and out.dtype == strip.dtype:  # all of a result, which is contiguous then
            torch.index_select(strip, 1, index, out=out)
        else:
            out[:, start:stop] = strip.index_select(1, index[start:stop])
        start = stop
