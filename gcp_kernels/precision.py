"""The arithmetic of an operator: its precision, its accumulation dtype, and autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch

from . import matmul_setting

PRECISIONS = ("fast", "high")

# How many float16 planes the kernels split a matrix into before they multiply it.
PLANES = {"fast": 1, "high": 2}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Choose the dtype of statistics, iterates and sums: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# Devices that torch.autocast refuses. Asked once: Dynamo of torch 2.10 and 2.11 cannot trace the question.
_WITHOUT_AUTOCAST = frozenset(
    name for name in ("meta", "lazy", "vulkan", "fpga", "ve") if not torch.amp.is_autocast_available(name)
)

# What is promised of each precision: the relative Frobenius error of a sample, forward and backward, before the result
# is rounded to its dtype.
PROMISED_ERRORS = {"fast": 2.5e-3, "high": 5e-6}


def resolve_precision(precision: str, dtype: torch.dtype) -> str:
    """Turn "default" into "fast" or "high" for features of ``dtype``.

    Half precision features are "fast". float32 features are "high", unless the user has allowed TF32 matrix products by
    ``torch.set_float32_matmul_precision`` or by ``torch.backends.cuda.matmul.fp32_precision``. The latter is what is
    read here, because ``torch.get_float32_matmul_precision`` raises once both have been set. float64 is always "high".

    Raises:
        ValueError: ``precision`` is none of the three.
    """
    if precision not in (*PRECISIONS, "default"):
        raise ValueError(f"precision must be 'fast', 'high' or 'default', got {precision!r}")
    if dtype == torch.float64:
        return "high"
    if precision != "default":
        return precision
    if dtype == torch.float32:
        return "fast" if matmul_setting.GPU.users_value == "tf32" else "high"
    return "fast"


def autocast_enabled(device: torch.device) -> bool:
    """Say whether autocast is on for the type of ``device``."""
    return device.type not in _WITHOUT_AUTOCAST and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Make a context without autocast, for devices that have it (the meta device does not)."""
    return nullcontext() if device.type in _WITHOUT_AUTOCAST else torch.autocast(device.type, enabled=False)
