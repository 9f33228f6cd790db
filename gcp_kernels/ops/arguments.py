"""What the public functions do alike with their arguments."""

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
    """Check the two options, and give them as operators take them, ``None`` spelled out."""
    if precision is not None:
        check_choice("precision", precision, _PRECISIONS)
    if backend is not None:
        check_choice("backend", backend, _BACKENDS)
    return precision or "default", backend or "auto"


def takes_reference(backend: str) -> bool:
    """Say whether the reference runs: it was asked for, or no operator can, inside a compiler around a derivative."""
    return backend == "reference" or (backend == "auto" and hides_operators())


def run_reference(function: Callable[..., Tensor], x: Tensor, *args: Tensor | float | None) -> Tensor:
    """Run a reference function as the operators run: statistics in float32 at least, whatever autocast says."""
    dtype = accumulation_dtype(x.dtype)
    with without_autocast(x.device):
        return function(*(arg.to(dtype) if isinstance(arg, Tensor) else arg for arg in (x, *args))).to(x.dtype)


def channels_first(x: Tensor, channel_dim: int) -> Tensor:
    """View features as (B, C, M) wherever the spatial dimensions can be merged, else copy them."""
    return (
        unsaved(_channels_first, x, channel_dim) if torch.compiler.is_compiling() else _channels_first(x, channel_dim)
    )


def _channels_first(x: Tensor, channel_dim: int) -> Tensor:
    if channel_dim in (-1, x.dim() - 1):
        # Spatial dimensions first: a compiler merges equal views, and keeps one that a layer's reduction makes as well.
        return x.flatten(1, -2).mT
    return (x if channel_dim == 1 else x.movedim(channel_dim, 1)).flatten(2)


def unsaved(view: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
    """Make a view of ``x``; a compiled training step keeps ``x`` for the backward pass, and makes the view again.

    Inductor fails where it keeps a view for which it cannot tell, with sizes that are not fixed, in which order the
    strides are, as of a feature map whose height follows from that of an image. Derivatives of ``torch.func`` know no
    checkpoints, and are kept by the compiler otherwise.
    """
    if torch.compiler.is_dynamo_compiling() and not (torch.compiler.is_exporting() or hides_operators()):
        return checkpoint(view, x, *args, use_reentrant=False)
    return view(x, *args)


def wants_gradient(tensor: Tensor) -> bool:
    """Say whether a backward pass may follow, so that keeping iterates for it is worth the memory.

    A graph that is exported or traced is kept for inference as a rule, and its backward pass is right without them.
    """
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return False
    return not (torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined]
