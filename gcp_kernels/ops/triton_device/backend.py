"""The Triton backend: the whole pooling in one launch where a sample fits on chip, forward and backward.

Its kernels compute the right values in Triton's interpreter and, in every dtype and every form that a shape gets, on an
H100 under Triton 3.6.0 (benchmarks/results/h100-2026-11-27, commit ea94d2b; memcheck finds no error in them). A form
that none gets is wrong there: backward on chip for 48 or 64 channels. For sm_80, sm_100 and sm_120 they compile, under
Triton 3.6.0 and 3.7.1, and have not run; nor have they been tuned on a GPU, or seen tensors beyond 2^31 elements there.
Compute capability 10.x (B200, B300) and 11.x (Thor) are refused until one has shown them right
there: Triton up to 3.7.1 miscompiles products that follow one another (triton-lang/triton#10821). With
TRITON_INTERPRET=1 in the environment they are interpreted, which serves tensors on the CPU, slowly: for tests and for
reading. Neither Triton nor a kernel is imported before an operation asks for it.
"""

from __future__ import annotations

import functools
import importlib

import torch

from gcp_kernels.architectures import HAVE_RUN, TARGETS

from .policy import side_of

__all__ = ["OPERATIONS", "side_of", "status", "why_not"]

OPERATIONS = ("isqrt_pool", "covariance_pool", "newton_schulz_sqrt")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LEAST_CAPABILITY = min(TARGETS)

# Offsets within a slab of working matrices are 32-bit; at twice as many channels they would overflow.
MOST_CHANNELS = 8192


def why_not(operation: str, tensor: torch.Tensor, precision: str = "default") -> str | None:
    """Say why this backend cannot run ``operation`` on ``tensor``, a sentence fragment, or ``None``: it can.

    It does not depend on the precision.
    """
    if operation not in OPERATIONS:
        return f"{operation} has no Triton kernel in this version"
    if (reason := _why_not_imported()) is not None:
        return reason
    if tensor.dtype not in DTYPES:
        return f"it supports float16, bfloat16 and float32, got {tensor.dtype}"
    if tensor.shape[1] > MOST_CHANNELS:
        return f"it supports up to {MOST_CHANNELS} channels, got {tensor.shape[1]}"
    if _interpreted():
        return None if tensor.device.type == "cpu" else "TRITON_INTERPRET=1 has kernels interpreted on the CPU"
    if not tensor.is_cuda:
        return f"it needs a CUDA tensor, got one on {tensor.device}"
    return _why_not_device(tensor.get_device())


def status() -> str:
    """Say in one line, for ``python -m gcp_kernels info``, what it serves here, or why nothing."""
    if (reason := _why_not_imported()) is not None:
        return f"unavailable: {reason}"
    mode = "interpreted on the CPU (TRITON_INTERPRET=1)" if _interpreted() else HAVE_RUN
    return f"serves {', '.join(OPERATIONS)}, not on compute capability 10.x and 11.x; {mode}"


@functools.cache
def _why_not_imported() -> str | None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    return None


@functools.cache
def _interpreted() -> bool:
    """Say whether Triton interprets the kernels: decided when the first of them is imported, so never asked again."""
    return bool(importlib.import_module("triton").knobs.runtime.interpret)


@functools.cache
def _why_not_device(index: int) -> str | None:
    if torch.version.hip is not None:
        return "its kernels are for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(index)
    if 10 * major + minor < LEAST_CAPABILITY:
        return f"it needs compute capability {LEAST_CAPABILITY / 10} or newer, cuda:{index} has {major}.{minor}"
    if major in (10, 11):
        return (
            f"its kernels are not yet shown right on compute capability 10.x and 11.x, for which Triton up to 3.7.1 "
            f"miscompiles products that follow one another; cuda:{index} has {major}.{minor}"
        )
    return None
