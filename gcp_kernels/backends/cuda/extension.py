"""Loading the compiled extension, once, and the reason where that is impossible."""

from __future__ import annotations

import functools
import importlib

import torch  # its libraries must be in the process before the extension's are resolved

__all__ = ["build_detail", "why_not_device", "why_not_loaded"]


@functools.cache
def why_not_loaded() -> str | None:
    """Loads ``gcp_kernels._C``, which registers ``torch.ops.gcp_kernels_cuda``; why that failed, if it did."""
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
    """Why CUDA device ``index`` cannot run the loaded extension's code (an old driver, another architecture)."""
    error = torch.ops.gcp_kernels_cuda.device_error(index)
    return f"the extension (built with {build_detail()}) cannot run on cuda:{index}: {error}" if error else None


def build_detail() -> str:
    """What the extension was built with, or why it was not built; empty in a tree that was never built."""
    try:
        return str(importlib.import_module("gcp_kernels._build_info").DETAIL)
    except ModuleNotFoundError:
        return ""
