"""Load the compiled extension, once, or give the reason why that is impossible."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch  # its libraries must be in the process before the extension's are resolved

__all__ = [
    "build_detail",
    "operators",
    "require_loaded",
    "why_not_device",
    "why_not_loaded",
    "why_not_positions",
    "why_not_size",
]


@functools.cache
def why_not_loaded() -> str | None:
    """Load ``gcp_kernels._C``, which registers ``torch.ops.gcp_kernels_cuda``; return why that failed, if it did."""
    try:
        build = importlib.import_module("gcp_kernels._build_info")
    except ModuleNotFoundError:
        return (
            "extension not built: this gcp_kernels is a source tree that was never built in place; leave the folder "
            "to use an installed one, or run pip install --no-build-isolation --editable ."
        )
    if not build.CUDA_EXTENSION:
        return f"extension not built: {build.DETAIL}"
    try:
        importlib.import_module("gcp_kernels._C")
    except (ImportError, OSError, RuntimeError) as error:
        return f"extension failed to load with torch {torch.__version__}: {error}"
    return None


@functools.cache
def why_not_device(index: int) -> str | None:
    """Say why CUDA device ``index`` cannot run the loaded extension's code: an old driver, or another architecture."""
    error = torch.ops.gcp_kernels_cuda.device_error(index)
    return f"the extension (built with {build_detail()}) cannot run on cuda:{index}: {error}" if error else None


@functools.cache
def why_not_size(channels: int, planes: int, index: int) -> str | None:
    """Say why pooling so many channels, each matrix in ``planes`` planes, does not fit on CUDA device ``index``."""
    limit = torch.ops.gcp_kernels_cuda.shared_memory_limit(index)
    return torch.ops.gcp_kernels_cuda.pooling_error(channels, planes, limit) or None


@functools.cache
def why_not_positions(channels: int, positions: int, planes: int, index: int) -> str | None:
    """Say why pooling (C, M) on the side of the positions does not fit on CUDA device ``index``."""
    limit = torch.ops.gcp_kernels_cuda.shared_memory_limit(index)
    return torch.ops.gcp_kernels_cuda.positions_pooling_error(channels, positions, planes, limit) or None


def operators(operation: str) -> Any:
    """Return the extension's own operators, ``torch.ops.gcp_kernels_cuda``, for ``operation``.

    They are not differentiable, and do not check who calls them.

    Raises:
        RuntimeError: the extension cannot be loaded.
    """
    require_loaded(f"backend 'cuda' cannot run {operation}")
    return torch.ops.gcp_kernels_cuda


def require_loaded(failure: str) -> None:
    """Load the extension.

    Raises:
        RuntimeError: it cannot be loaded; the message is ``failure`` and the reason.
    """
    if (reason := why_not_loaded()) is not None:
        raise RuntimeError(f"{failure}: {reason}")


def build_detail() -> str:
    """Say what the extension was built with, or why it was not built; empty in a tree that was never built."""
    try:
        return str(importlib.import_module("gcp_kernels._build_info").DETAIL)
    except ModuleNotFoundError:
        return ""
