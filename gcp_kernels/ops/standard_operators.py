"""What decompositions share: formulas of the torch backend in operators that every exporter knows, nothing in place."""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from .torch_device.triangle import new_triangle_map


def centred_features(x: Tensor) -> Tensor:
    """Compute x - mu of features (B, C, M) in the accumulation dtype; exactly zero for a constant channel."""
    dtype = accumulation_dtype(x.dtype)
    shifted = x.to(dtype) - x[..., :1].to(dtype)
    return shifted - shifted.mean(dim=-1, keepdim=True)


def divide_by_trace(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrices (B, s, s) over their traces, and the traces (B,); a trace of zero gives zeros."""
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    return matrices / torch.where(trace == 0, torch.inf, trace)[:, None, None], trace


def root(trace: Tensor) -> Tensor:
    """Compute sqrt(t) of traces (B,), as (B, 1, 1), with zero gradient where t is zero."""
    zero = trace == 0
    return torch.where(zero, 0, torch.where(zero, 1, trace).sqrt())[:, None, None]


def inverse_root(trace: Tensor) -> Tensor:
    """Compute 1 / sqrt(t) of traces (B,), as (B, 1, 1): 0 for zero, with zero gradient, and NaN for infinity."""
    zero = trace == 0
    inverse = torch.where(zero, 0, torch.where(zero, 1, trace).rsqrt())
    return torch.where(trace == torch.inf, torch.nan, inverse)[:, None, None]


def newton_schulz(a: Tensor, n_iter: int, *, of_root: bool) -> Tensor:
    """Compute Y_N of matrices A (B, s, s) with trace 1, or with ``of_root=False`` Z_N; Y_N = A Z_N.

    The formulas are those of ``torch_device/iteration.py``: W alone is iterated, and the last two steps are one. As
    there, 11 products for N = 5.
    """
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    w, product = a, None  # of all T so far, and of A if it is for the root
    for _ in range(n_iter - 2):
        t = 1.5 * identity - 0.5 * w
        wt = w @ t
        product = (wt if of_root else t) if product is None else product @ t
        w = wt @ t
    if n_iter == 1:
        factor = 1.5 * identity - 0.5 * w
    else:
        v = w @ w
        factor = 9 / 4 * identity - 39 / 16 * w + 27 / 16 * v + v @ (v - 9 * w) / 16
    if product is None:
        return a @ factor if of_root else factor
    return product @ factor


def read_triangle(matrices: Tensor) -> Tensor:
    """Read the row-major upper triangles of matrices: (B, C, C) to (B, C(C+1)/2)."""
    return matrices.flatten(1).index_select(1, new_triangle_map(matrices.shape[-1], matrices.device))
