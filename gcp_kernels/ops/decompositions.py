"""The operators of this package written in other operators, for programs that are to run without the package.

:mod:`gcp_kernels.export` takes them from here. ``torch.onnx.export`` takes them from torch's own table, where they are
registered too, or meets a refusal there. A compiler does not read that table for operators of a library, so
``torch.compile`` still calls the fused operators.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch._ops import OpOverload

# Forward operators, with what returns all their outputs in operators of torch.
TABLE: dict[OpOverload, Callable[..., Any]] = {}
_FAKES: dict[OpOverload, Callable[..., Any]] = {}


def register(
    operator: OpOverload, fake: Callable[..., Any], decomposition: Callable[..., Tensor], in_onnx: bool
) -> None:
    """Register the decomposition of a forward operator.

    Args:
        operator: the operator.
        fake: returns its outputs without values.
        decomposition: returns the first output, from the arguments that it names in its signature.
        in_onnx: whether ONNX can express it.
    """
    _FAKES[operator] = fake
    TABLE[operator] = in_place_of(operator, decomposition)

    def refuse(*args: Any) -> Any:
        raise NotImplementedError(
            f"{operator} needs an eigen-decomposition, which ONNX does not have; export the network with another "
            "normalization ('isqrt', 'none', 'elementwise'), where 'isqrt' with more n_iter comes close to "
            "'power' with alpha=0.5, or compile it with AOTInductor (gcp_kernels.export.decompose)"
        )

    register_decomposition(operator)(TABLE[operator] if in_onnx else refuse)
    # Where a size is not fixed, tracers would take the decomposition for the shapes too, if not for this.
    register_decomposition(operator, type="meta")(fake)


def in_place_of(operator: OpOverload, function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Make of a function that returns the first output of an operator one with its arguments and all its outputs."""
    fake = _FAKES[operator]
    parameters = list(signature(fake).parameters)
    wanted = [parameters.index(name) for name in signature(function).parameters]

    def replace(*args: Any) -> Any:
        result, outputs = function(*(args[i] for i in wanted)), fake(*args)
        if not isinstance(outputs, tuple):
            return result
        # Only a backward pass reads the others, and a program that has one is refused.
        return result, *(torch.full_like(output, torch.nan) for output in outputs[1:])

    return replace
