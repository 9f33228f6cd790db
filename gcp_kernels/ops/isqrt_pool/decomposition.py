"""isqrt_pool in operators of torch, on the smaller side where the sizes are fixed."""

import torch
from torch import Tensor

from ..sides import POSITIONS
from ..standard_operators import centred_features, divide_by_trace, inverse_root, newton_schulz, read_triangle, root
from ..torch_device.side import side_of
from ..torch_device.triangle import new_triangle_map


def isqrt_pool(x: Tensor, n_iter: int, triu: bool) -> Tensor:
    """Pool features (B, C, M) to (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``.

    Where a program leaves C or M open, the iteration is on the side of the channels.
    """
    c, m = x.shape[1:]
    centred = centred_features(x)
    fixed = isinstance(c, int) and isinstance(m, int)
    pool = _on_positions if fixed and side_of(c, m) == POSITIONS else _on_channels
    pooled = pool(centred, n_iter)
    return (read_triangle(pooled) if triu else pooled).to(x.dtype)


def isqrt_pool_to_differentiate(x: Tensor, n_iter: int, triu: bool) -> Tensor:
    """Pool as :func:`isqrt_pool` does, for second derivatives.

    The triangle is read by an index: torch 2.10 and 2.11 cannot differentiate ``index_select`` where sizes are open.
    """
    pooled = isqrt_pool(x, n_iter, triu=False)
    return pooled.flatten(1)[:, new_triangle_map(pooled.shape[-1], pooled.device)] if triu else pooled


def _on_channels(centred: Tensor, n_iter: int) -> Tensor:
    """Compute sqrt(t) Y_N of Sigma / t from x - mu (B, C, M)."""
    a, trace = divide_by_trace(centred @ centred.mT)
    return newton_schulz(a, n_iter, of_root=True) * root(trace / centred.shape[-1])


def _on_positions(centred: Tensor, n_iter: int) -> Tensor:
    """Compute sqrt(t) z q(K) z^T from x - mu (B, C, M); ``torch_positions.py`` says why K gets two more terms."""
    m = centred.shape[-1]
    gram, trace = divide_by_trace(centred.mT @ centred)
    constant = (trace == 0)[:, None, None] * torch.eye(m, dtype=gram.dtype, device=gram.device)
    q = newton_schulz(gram + 1 / m**2 + constant, n_iter, of_root=False)
    return centred @ q @ (centred.mT * (inverse_root(trace / m) / m))
