"""What every public function does with its arguments: check options, bring channels to the front, choose the way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gcp_kernels.precision import PRECISIONS, accumulation_dtype, without_autocast
from gcp_kernels.transforms import hides_operators
from gcp_kernels.validation import check_choice

from .backends import NAMES as BACKEND_NAMES

OUTPUTS = ("triu", "full")
_PRECISIONS = (None, *PRECISIONS)
_BACKENDS = (None, *BACKEND_NAMES)


def check_arithmetic(precision: str | None, backend: str | None) -> tuple[str, str]:
    """Check the two options and return what operators take: "default" and "auto" instead of ``None``.

    Raises:
        ValueError: either is not among those allowed.
    """
    if precision is not None:
        check_choice("precision", precision, _PRECISIONS)
    if backend is not None:
        check_choice("backend", backend, _BACKENDS)
    return precision or "default", backend or "auto"


def takes_reference(backend: str) -> bool:
    """Say whether the reference must run.

    It must where the user asked for it. It must also, for "auto", where a compiler traces a derivative of
    ``torch.func``: there no operator of ours can be differentiated.
    """
    return backend == "reference" or (backend == "auto" and hides_operators())


def run_reference(function: Callable[..., Tensor], x: Tensor, *args: Tensor | float | None) -> Tensor:
    """Run a reference function in the arithmetic of the operators: float32 at least, with autocast disabled.

    Returns:
        Its result, in the dtype of ``x``.
    """
    dtype = accumulation_dtype(x.dtype)
    with without_autocast(x.device):
        return function(*(arg.to(dtype) if isinstance(arg, Tensor) else arg for arg in (x, *args))).to(x.dtype)


def channels_first(x: Tensor, channel_dim: int) -> Tensor:
    """View features as (B, C, M). Copy them where their strides do not allow a view."""
    return unsaved(_channels_first, x, channel_dim)


def _channels_first(x: Tensor, channel_dim: int) -> Tensor:
    if channel_dim in (-1, x.dim() - 1):
        # Merge the spatial dimensions first. A layer's reduction makes the same view, and a compiler keeps one of two
        # views that are equal.
        return x.flatten(1, -2).mT
    return (x if channel_dim == 1 else x.movedim(channel_dim, 1)).flatten(2)


def unsaved(view: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
    """Make a view of ``x`` that a compiled training step does not save.

    The step saves ``x`` for the backward pass and makes the view again there. Inductor fails where it saves a view and
    cannot tell the order of its strides. That happens with sizes that are not fixed, such as the height of a feature
    map that follows from the height of an image. Derivatives of ``torch.func`` do not support checkpoints, and do not
    need one here.
    """
    if torch.compiler.is_dynamo_compiling() and not (torch.compiler.is_exporting() or hides_operators()):
        return checkpoint(view, x, *args, use_reentrant=False)
    return view(x, *args)


def wants_gradient(tensor: Tensor) -> bool:
    """Say whether a backward pass may follow, so that keeping iterates for it is worth the memory.

    A graph that is exported or traced is most often used for inference. Its backward pass is right without them too.
    """
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return False
    return not (torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined]
