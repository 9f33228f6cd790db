"""The operators of this package written in other operators, for programs that are to run without the package.

:mod:`gcp_kernels.export` takes them from here; and where ``torch.onnx.export`` traces a network, an operator calls its
own. They are in no table of torch: Inductor refuses an operator that has a decomposition there, in continuous
integration, and tracers would take it for the shapes too.
"""

import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

# Forward operators, with what returns all their outputs in operators of torch.
TABLE: dict[OpOverload, Callable[..., Any]] = {}
_FAKES: dict[OpOverload, Callable[..., Any]] = {}
_NOT_IN_ONNX: set[OpOverload] = set()


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
    if not in_onnx:
        _NOT_IN_ONNX.add(operator)


def goes_to_onnx() -> bool:
    """Say whether ``torch.onnx.export`` traces the call."""
    return torch.compiler.is_exporting() and "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()


# A compiler asks while it traces, and takes the answer as a constant.
goes_to_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]


def decompose_for_onnx(operator: OpOverload, args: tuple[Any, ...]) -> Any:
    """Compute an operator by its decomposition.

    Raises:
        NotImplementedError: ONNX cannot express it.
    """
    if operator in _NOT_IN_ONNX:
        raise NotImplementedError(
            f"{operator} needs an eigen-decomposition, which ONNX does not have; export the network with another "
            "normalization ('isqrt', 'none', 'elementwise'), where 'isqrt' with more n_iter comes close to "
            "'power' with alpha=0.5, or compile it with AOTInductor (gcp_kernels.export.decompose)"
        )
    return TABLE[operator](*args)


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
