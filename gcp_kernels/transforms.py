"""Questions about transforms of ``torch.func`` and forward-mode differentiation, and what their formulas need."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._functorch import pyfunctorch
from torch.autograd import forward_ad

_DIFFERENTIATE = (torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp)


def is_transforming() -> bool:
    """Say whether a transform of ``torch.func``, or forward-mode differentiation, is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_differentiating() -> bool:
    """Say whether one of those transforms differentiates, as all but ``torch.vmap`` do."""
    levels = pyfunctorch.retrieve_all_functorch_interpreters()
    return forward_ad._current_level >= 0 or any(level.key() in _DIFFERENTIATE for level in levels)


# As torch.compiler.assume_constant_result does, which would import the compiler. The compiler asks while it traces,
# with the transforms that it traces active, and takes the answer as a constant.
is_differentiating._dynamo_marked_constant = True  # type: ignore[attr-defined]


def hides_operators() -> bool:
    """Say whether a compiler traces through a derivative of ``torch.func``, where it cannot differentiate an operator.

    It finds no gradient of an operator there, and takes its tangent for zero.
    """
    return torch.compiler.is_compiling() and is_differentiating()


def drops_tangents() -> bool:
    """Say whether an operator would lose tangents: forward mode is on where it computes.

    It is off inside an ``autograd.Function`` with a formula for the tangent.
    """
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


@contextmanager
def tangents_of_tangents(*saved: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Make a context, for the ``jvp`` of an ``autograd.Function``, in which forward mode is on.

    torch calls ``jvp`` with forward mode off, and would lose the tangents of an outer differentiation without a word.

    Yields:
        The saved tensors without their own tangents.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield tuple(tensor if tensor is None else forward_ad.unpack_dual(tensor).primal for tensor in saved)
