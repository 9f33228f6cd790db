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


def check_arithmetic(precision: str | None, backend: str | None) -> tuple[str, str]:
    """The two options as operators take them, ``None`` spelled out."""
    check_choice("precision", precision, (None, *PRECISIONS))
    check_choice("backend", backend, (None, *BACKEND_NAMES))
    return precision or "default", backend or "auto"


def takes_reference(backend: str) -> bool:
    """Whether the reference runs: it was asked for, or no operator can, inside a compiler around a derivative."""
    return backend == "reference" or (backend == "auto" and hides_operators())


def run_reference(function: Callable[..., Tensor], x: Tensor, *args: Tensor | float | None) -> Tensor:
    """A reference function as the operators run it: statistics in float32 at least, whatever autocast says."""
    dtype = accumulation_dtype(x.dtype)
    with without_autocast(x.device):
        return function(*(arg.to(dtype) if isinstance(arg, Tensor) else arg for arg in (x, *args))).to(x.dtype)


def channels_first(x: Tensor, channel_dim: int) -> Tensor:
    """Features as (B, C, M), a view wherever the spatial dimensions can be merged."""
    return unsaved(_channels_first, x, channel_dim)


def _channels_first(x: Tensor, channel_dim: int) -> Tensor:
    if channel_dim in (-1, x.dim() - 1):
        # Spatial dimensions first: a compiler merges equal views, and keeps one that a layer's reduction makes as well.
        return x.flatten(1, -2).mT
    return (x if channel_dim == 1 else x.movedim(channel_dim, 1)).flatten(2)


def unsaved(view: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
    """A view of ``x``, which a compiled training step keeps itself for the backward pass, and makes the view again.

    Inductor fails where it keeps a view for which it cannot tell, with sizes that are not fixed, in which order the
    strides are, as of a feature map whose height follows from that of an image. Derivatives of ``torch.func`` know no
    checkpoints, and are kept by the compiler otherwise.
    """
    if torch.compiler.is_dynamo_compiling() and not (torch.compiler.is_exporting() or hides_operators()):
        return checkpoint(view, x, *args, use_reentrant=False)
    return view(x, *args)


def wants_gradient(tensor: Tensor) -> bool:
    """Whether a backward pass may follow, so that keeping iterates for it is worth the memory.

    A graph that is exported or traced is kept for inference as a rule, and its backward pass is right without them.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return tensor.requires_grad and torch.is_grad_enabled()
