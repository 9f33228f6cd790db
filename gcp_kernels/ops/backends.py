"""The backends, and the choice of one for an operation on a tensor.

"auto" takes the first backend of :func:`auto_order` that can run the operation; where ``times.py`` has times of the
operation, in the order that these give for its shape and the pass. A backend that is asked for by name either runs or
raises; no other one takes over. The code of a backend for an operation is the module with the backend's name in the
operation's room, such as ``isqrt_pool/cuda.py``. It is imported when it is first chosen.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from gcp_kernels.precision import resolve_precision

from . import times
from .cuda_device import backend as cuda
from .rooms import ROOMS
from .sides import Side
from .torch_device import backend as torch
from .triton_device import backend as triton


class Backend(Protocol):
    """A way to run operations. Any module that has these names is a backend."""

    @property
    def OPERATIONS(self) -> tuple[str, ...]:
        """The operations that it serves, each with its backward pass."""

    def why_not(self, operation: str, tensor: Tensor, precision: str = "default") -> str | None:
        """Say why it cannot run ``operation`` on ``tensor``, as a sentence fragment; ``None`` means that it can."""

    def side_of(self, c: int, m: int) -> Side:
        """Say on which side ``isqrt_pool`` iterates for C channels at M positions: the channels', or the positions'."""

    def status(self) -> str:
        """Say in one line, for ``python -m gcp_kernels info``, what it serves here, or why nothing."""


BACKENDS: dict[str, Backend] = {"cuda": cuda, "triton": triton, "torch": torch}

AUTO_ORDER = tuple(BACKENDS)

# "reference" is not an operator backend: the public functions call gcp_kernels.reference under plain autograd.
NAMES = ("auto", "reference", *BACKENDS)


def auto_order(device_type: str) -> tuple[str, ...]:
    """Name the backends that "auto" tries on a device, in the order that they keep where no times are known.

    It never takes kernels that are interpreted.
    """
    return AUTO_ORDER if device_type == "cuda" else ("torch",)


def select(operation: str, tensor: Tensor, backend: str, precision: str = "default", *, backward: bool = False) -> str:
    """Name the backend that runs ``operation`` on ``tensor`` at ``precision``, or its backward pass.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: the backend asked for cannot run it, with the reason.
    """
    if backend == "auto":
        names = auto_order(tensor.device.type)
        if len(names) > 1 and operation in times.OPERATIONS:
            precision = resolve_precision(precision, tensor.dtype)  # once: a backend that is asked needs it too
            _, c, m = tensor.shape
            names = times.order(operation, c, m, precision, names, backward)
        for name in names:
            if BACKENDS[name].why_not(operation, tensor, precision) is None:
                return name
        reasons = "; ".join(f"{name}: {BACKENDS[name].why_not(operation, tensor, precision)}" for name in names)
        raise RuntimeError(f"no backend can run {operation} on this tensor ({reasons})")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    reason = BACKENDS[backend].why_not(operation, tensor, precision)
    if reason is not None:
        raise RuntimeError(f"backend={backend!r} cannot run {operation}: {reason}; backend='auto' takes one that can")
    return backend


@cache
def implementation(operation: str, backend: str) -> Callable[..., Any]:
    """Find the function that a backend runs for an operation, or for its backward pass, ``operation`` + "_backward"."""
    room = ROOMS[operation.removesuffix("_backward")]
    function: Callable[..., Any] = getattr(import_module(f".{room}.{backend}", __package__), operation)
    return function
