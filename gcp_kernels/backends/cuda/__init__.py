"""The CUDA C++ backend: ``triu_vec`` and ``triu_unvec`` from the compiled extension ``gcp_kernels._C``.

It compiles, imports and, under a CPU emulation of the kernels, computes the right values; it has not run on
a GPU yet. The extension is optional (see ``GCP_KERNELS_CUDA`` in setup.py), and importing this module never
needs it: it is loaded when an operation is first asked for, and :func:`why_not` says why it cannot be.
"""

from __future__ import annotations

import torch

from gcp_kernels.backends.cuda.extension import build_detail, why_not_device, why_not_loaded

__all__ = ["DTYPES", "OPERATIONS", "status", "triu_unvec", "triu_vec", "why_not"]

OPERATIONS = ("triu_vec", "triu_unvec")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def why_not(operation: str, tensor: torch.Tensor) -> str | None:
    """Why this backend cannot run ``operation`` on ``tensor``, a sentence fragment, or ``None``: it can."""
    if operation not in OPERATIONS:
        return f"{operation} has no CUDA kernel in this version"
    if (reason := why_not_loaded()) is not None:
        return reason
    if not tensor.is_cuda:
        return f"it needs a CUDA tensor, got one on {tensor.device}"
    if tensor.dtype not in DTYPES:
        return f"it supports float16, bfloat16, float32 and float64, got {tensor.dtype}"
    return why_not_device(tensor.get_device())


def triu_vec(matrix: torch.Tensor, fold: bool) -> torch.Tensor:
    """(B, C, C), any strides -> (B, C(C+1)/2), contiguous: the row-major upper triangle, diagonal included.

    With ``fold`` the element below the diagonal is added to its mirror image above it, which is the adjoint
    of :func:`triu_unvec` with ``mirror``; without, it is ignored. Not differentiable by itself.

    Raises:
        RuntimeError: the extension cannot be loaded, or rejects the tensor (device, dtype, shape), or the
            launch fails.
    """
    _require("triu_vec")
    return torch.ops.gcp_kernels_cuda.triu_vec(matrix, fold)


def triu_unvec(vector: torch.Tensor, mirror: bool) -> torch.Tensor:
    """(B, C(C+1)/2), any strides -> (B, C, C), contiguous: the upper triangle put back.

    Below the diagonal stands the mirror image with ``mirror``, else zero, which is the adjoint of
    :func:`triu_vec` without ``fold``. Not differentiable by itself.

    Raises:
        RuntimeError: as for :func:`triu_vec`.
    """
    _require("triu_unvec")
    return torch.ops.gcp_kernels_cuda.triu_unvec(vector, mirror)


def status() -> str:
    """One line for ``python -m gcp_kernels info``: available or not, and why."""
    if (reason := why_not_loaded()) is not None:
        return f"unavailable: {reason}"
    return f"loaded (built with {build_detail()}); serves {', '.join(OPERATIONS)}; not yet run on a GPU"


def _require(operation: str) -> None:
    if (reason := why_not_loaded()) is not None:
        raise RuntimeError(f"backend 'cuda' cannot run {operation}: {reason}")
