"""Load the compiled extension, once, or give the reason why that is impossible."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
from typing import Any

import torch  # its libraries must be in the process before the extension's are resolved

__all__ = [
    "build_detail",
    "library_name",
    "operators",
    "require_loaded",
    "why_not_device",
    "why_not_loaded",
    "why_not_positions",
    "why_not_size",
]

# Relative, as the package may have been imported under another name.
_EXTENSION = "..._C"
_BUILD_INFO = "..._build_info"


@functools.cache
def why_not_loaded() -> str | None:
    """Load ``gcp_kernels._C``, which registers ``torch.ops.gcp_kernels_cuda``; return why that failed, if it did."""
    try:
        build = _build_info()
    except ModuleNotFoundError:
        return (
            "extension not built: this gcp_kernels is a source tree that was never built in place; leave the folder "
            "to use an installed one, or run pip install --no-build-isolation --editable ."
        )
    if not build.CUDA_EXTENSION:
        return f"extension not built: {build.DETAIL}"
    if _is_taken():
        return (
            f"extension not loaded: another gcp_kernels in this process has registered torch.ops.{library_name()}, "
            "and torch ends a process that registers it twice; import one of the two, or take one whose extension was "
            "built with another name as GCP_KERNELS_LIBRARY"
        )
    try:
        importlib.import_module(_EXTENSION, __package__)
    except (ImportError, OSError, RuntimeError) as error:
        return f"extension failed to load with torch {torch.__version__}: {error}"
    return None


@functools.cache
def why_not_device(index: int) -> str | None:
    """Say why CUDA device ``index`` cannot run the loaded extension's code: an old driver, or another architecture."""
    error = _library().device_error(index)
    return f"the extension (built with {build_detail()}) cannot run on cuda:{index}: {error}" if error else None


@functools.cache
def why_not_size(channels: int, planes: int, index: int) -> str | None:
    """Say why pooling so many channels, each matrix in ``planes`` planes, does not fit on CUDA device ``index``."""
    limit = _library().shared_memory_limit(index)
    return _library().pooling_error(channels, planes, limit) or None


@functools.cache
def why_not_positions(channels: int, positions: int, planes: int, index: int) -> str | None:
    """Say why pooling (C, M) on the side of the positions does not fit on CUDA device ``index``."""
    limit = _library().shared_memory_limit(index)
    return _library().positions_pooling_error(channels, positions, planes, limit) or None


def operators(operation: str) -> Any:
    """Return the extension's own operators, ``torch.ops.gcp_kernels_cuda``, for ``operation``.

    They are not differentiable, and do not check who calls them.

    Raises:
        RuntimeError: the extension cannot be loaded.
    """
    require_loaded(f"backend 'cuda' cannot run {operation}")
    return _library()


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
        return str(_build_info().DETAIL)
    except ModuleNotFoundError:
        return ""


def _build_info() -> Any:
    """Import what setup.py has written; ModuleNotFoundError where it has not."""
    return importlib.import_module(_BUILD_INFO, __package__)


def library_name() -> str:
    """Return the name of the extension's operators in ``torch.ops``; see GCP_KERNELS_LIBRARY in setup.py."""
    return getattr(_build_info(), "LIBRARY", "gcp_kernels_cuda")


@functools.cache
def _library() -> Any:
    return getattr(torch.ops, library_name())


def _is_taken() -> bool:
    """Whether the name of the operators is registered, and by another file than this package's extension."""
    if not hasattr(_library(), "device_error"):
        return False
    spec = importlib.util.find_spec(_EXTENSION, __package__)
    try:
        ctypes.CDLL(spec.origin if spec else None, mode=os.RTLD_NOLOAD)
    except OSError:
        return True
    return False
