"""Implementations of the operators, and the choice between them.

A backend is a subpackage with ``why_not(operation, tensor, precision)``, which gives the reason why it cannot run an
operation on a tensor (``None`` where it can, backward pass included), and one function per operation that it serves.
"auto" takes the first backend of :func:`auto_order` that can; a backend asked for by name runs or raises, and is never
replaced by another.
"""

from types import ModuleType

# Of the framework only the class: the name "torch" means the subpackage here.
from torch import Tensor

from . import cuda, torch, triton

OPERATIONS = (
    "isqrt_pool",
    "covariance_pool",
    "newton_schulz_sqrt",
    "triu_vec",
    "triu_unvec",
    "newton_schulz_inverse_sqrt",
    "matrix_power",
    "matrix_log",
)

BACKENDS: dict[str, ModuleType] = {"cuda": cuda, "triton": triton, "torch": torch}

AUTO_ORDER = ("cuda", "triton", "torch")

# "reference" is not an operator backend: the public functions call gcp_kernels.reference under plain autograd.
NAMES = ("auto", "reference", *BACKENDS)


def auto_order(device_type: str) -> tuple[str, ...]:
    """Backends that "auto" tries on a device, in order: kernels where they run, and never in an interpreter."""
    return AUTO_ORDER if device_type == "cuda" else ("torch",)


def select(operation: str, tensor: Tensor, backend: str, precision: str = "default") -> ModuleType:
    """The backend that runs ``operation`` on ``tensor`` at ``precision``.

    Raises:
        ValueError: there is no backend of that name.
        RuntimeError: the backend asked for cannot run it, with the reason.
    """
    if backend == "auto":
        names = auto_order(tensor.device.type)
        for name in names:
            if BACKENDS[name].why_not(operation, tensor, precision) is None:
                return BACKENDS[name]
        reasons = "; ".join(f"{name}: {BACKENDS[name].why_not(operation, tensor, precision)}" for name in names)
        raise RuntimeError(f"no backend can run {operation} on this tensor ({reasons})")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")
    reason = BACKENDS[backend].why_not(operation, tensor, precision)
    if reason is not None:
        raise RuntimeError(
            f"backend={backend!r} cannot run {operation}: {reason}; backend='auto' takes the first that can"
        )
    return BACKENDS[backend]
