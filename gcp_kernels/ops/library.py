"""Declare an operation from one description: a forward and a backward operator, differentiable to any order.

The forward operator takes the tensors that the operation is differentiated by, then the options. It returns the result,
followed by what the backward pass needs besides the inputs; these further outputs have no gradient. The backward
operator takes the upstream gradient of the result, the inputs, the further outputs, and options. It names the options
that it wants in its signature. It returns a gradient for each input. The derivative of the backward operator is that of
the backward pass of the operation in plain PyTorch.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor

from .derivatives import differentiate_backward
from .operators import Operator

Gradients = tuple[Tensor | None, ...]


def declare(
    operation: str,
    *,
    fake: Callable[..., Any],
    check: Callable[..., None],
    backward_fake: Callable[..., Any],
    check_backward: Callable[..., None],
    reference: Callable[..., Tensor],
    decomposition: Callable[..., Tensor],
    in_onnx: bool = True,
) -> tuple[Operator, Operator]:
    """Make the operators ``operation`` and ``operation``_backward of the library "gcp_kernels".

    Args:
        operation: its name, in the library and in the choice of backends.
        fake: returns empty outputs of the right shapes, strides and dtypes for the forward operator. The operator's
            schema is read from its signature.
        check: raises for wrong arguments of the forward operator, where it is called directly; it takes those that it
            names.
        backward_fake: the same as ``fake``, for the backward operator.
        check_backward: the same as ``check``, for the backward operator.
        reference: the operation in plain PyTorch, which is differentiated for second derivatives. It takes the inputs,
            and options by their names.
        decomposition: what exported programs have instead of the forward operator, see :meth:`Operator.decompose_by`.
        in_onnx: whether ONNX has the operators of the decomposition.

    Returns:
        The forward and the backward operator.
    """
    forward = Operator(operation, fake, check)
    backward = Operator(operation, backward_fake, check_backward, backward=True)
    count = forward.tensors
    options = forward.parameters[count:]
    passed_on = [options.index(name) for name in backward.parameters if name in options]
    of_reference = [name for name in signature(reference).parameters if name in options]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, *kept = output
        _keep(ctx, *inputs[:count], *kept)
        ctx.options = inputs[count:]
        ctx.mark_non_differentiable(*kept)

    def differentiate(ctx: Any, grad: Tensor | None, *_: None) -> Gradients:
        if grad is None:
            return (None,) * len(forward.parameters)
        kept = ctx.saved_tensors
        gradients = backward(grad, *kept, *(ctx.options[i] for i in passed_on))
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        # An operator cannot return None, so the gradient of an input that was not given is an empty tensor.
        by_input = (None if given is None else g for given, g in zip(kept, gradients, strict=False))
        return *by_input, *(None for _ in options)

    def keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _keep(ctx, *inputs[: 1 + count])
        ctx.options = {name: inputs[backward.parameters.index(name)] for name in of_reference}
        outputs = output if isinstance(output, tuple) else (output,)
        empty = [o for given, o in zip(inputs[1:], outputs, strict=False) if given is None]
        if empty:
            ctx.mark_non_differentiable(*empty)

    def differentiate_again(ctx: Any, *tangents: Tensor | None) -> Gradients:
        found: list[Tensor | None] = [None] * len(backward.parameters)
        if all(tangent is None for tangent in tangents):
            return tuple(found)
        grad, *primals = ctx.saved_tensors
        given = [i for i, tensor in enumerate(primals) if tensor is not None]

        def pool(*tensors: Tensor) -> Tensor:
            those = iter(tensors)
            return reference(*(None if tensor is None else next(those) for tensor in primals), **ctx.options)

        gradients = differentiate_backward(pool, [tangents[i] for i in given], grad, *(primals[i] for i in given))
        for place, gradient in zip((0, *(1 + i for i in given)), gradients, strict=True):
            found[place] = gradient
        return tuple(found)

    forward.decompose_by(decomposition, in_onnx)
    forward.differentiate_by(differentiate, keep)
    backward.differentiate_by(differentiate_again, keep_for_backward)
    return forward, backward


def _keep(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep the tensors that a backward formula reads, for reverse mode and for forward mode, which uses it too."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)
