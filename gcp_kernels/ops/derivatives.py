"""Second derivatives, and derivatives in forward mode.

A backward operator can be differentiated by the upstream gradient and by the inputs. Its own backward formula
differentiates the backward pass of the operation in plain PyTorch: the reference, or for isqrt_pool its decomposition,
which iterates on the smaller side. That is autograd, so derivatives of any order are exact. It keeps all iterates in
memory: second derivatives are for analysis, not for the training step.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype, without_autocast


def differentiate_backward(
    forward: Callable[..., Tensor], tangents: Sequence[Tensor | None], grad: Tensor, *primals: Tensor
) -> tuple[Tensor, ...]:
    """Differentiate <tangents, J(primals)^T grad> by ``grad`` and each primal, where J is the Jacobian of ``forward``.

    Args:
        forward: the operation in plain PyTorch, from ``primals`` to the operator's output.
        tangents: gradients of the backward operator's outputs, each shaped like its primal; ``None`` for zero.
        grad: upstream gradient that the backward operator was given, shaped like the output of ``forward``.
        primals: inputs of the forward operator. The first, the features or the matrices, sets the arithmetic.

    Returns:
        The gradient of ``grad`` and of each primal, in its dtype.

    Raises:
        NotImplementedError: a tensor is a DTensor, beside which the reference would put plain tensors.
    """
    if any(map(_is_dtensor, (grad, *primals, *tangents))):
        raise NotImplementedError(
            "second derivatives of operators of gcp_kernels are for plain tensors, got a DTensor; take x.to_local(), "
            "the samples of this process"
        )
    dtype = accumulation_dtype(primals[0].dtype)

    def backward(grad: Tensor, *primals: Tensor) -> tuple[Tensor, ...]:
        pull_back = torch.func.vjp(forward, *primals)[1]
        return pull_back(grad)

    with without_autocast(grad.device):
        arguments = [tensor.to(dtype) for tensor in (grad, *primals)]
        cotangents = tuple(
            torch.zeros_like(primal) if tangent is None else tangent.to(dtype)
            for tangent, primal in zip(tangents, arguments[1:], strict=True)
        )
        gradients = torch.func.vjp(backward, *arguments)[1](cotangents)
    return tuple(g.to(tensor.dtype) for g, tensor in zip(gradients, (grad, *primals), strict=True))


def _is_dtensor(tensor: Tensor | None) -> bool:
    """Say whether a tensor is one of ``torch.distributed.tensor``, without importing that."""
    return isinstance(tensor, getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ()))


def push_forward(
    pull_back: Callable[..., tuple[Tensor | None, ...]],
    outputs: Sequence[tuple[torch.Size, torch.dtype, torch.device] | None],
    tangents: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Multiply tangents by the Jacobian J of a function whose backward pass, J^T grad, is ``pull_back``.

    J^T grad is linear in ``grad``, so the backward pass of ``pull_back`` is J tangents.

    Args:
        pull_back: from the upstream gradients of all outputs to the gradients of all inputs.
        outputs: shape, dtype and device of each output; ``None`` for an output without derivative.
        tangents: tangent of each input; ``None`` for zero, and for an input that is no tensor.

    Returns:
        The tangent of each output, ``None`` for an output without derivative.
    """
    given = [i for i, tangent in enumerate(tangents) if tangent is not None]
    zeros = [torch.zeros(output[0], dtype=output[1], device=output[2]) for output in outputs if output]

    def gradients(*upstream: Tensor) -> tuple[Tensor | None, ...]:
        those = iter(upstream)
        pulled = pull_back(*(output and next(those) for output in outputs))
        return tuple(pulled[i] for i in given)

    # The pull-back is linear, so its derivative is the same everywhere. Zero is as good a place as any.
    pushed = iter(torch.func.vjp(gradients, *zeros)[1](tuple(tangents[i] for i in given)))
    return tuple(output and next(pushed) for output in outputs)
