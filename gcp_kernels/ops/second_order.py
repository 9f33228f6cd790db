"""Second derivatives, through the reference.

The backward operators are differentiable in the upstream gradient and in the inputs. Their own backward formula
differentiates the backward pass of the reference, which is plain autograd, so derivatives of any order are exact. It
keeps the reference's iterates in memory: second order is for analysis, not for the training step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype, without_autocast


def differentiate_backward(
    forward: Callable[..., Tensor], tangents: tuple[Tensor | None, ...], grad: Tensor, *primals: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of <tangents, J(primals)^T grad> with respect to ``grad`` and each primal, J being that of ``forward``.

    Args:
        forward: the reference, from ``primals`` to the operator's output.
        tangents: gradients of the backward operator's outputs, each shaped like its primal; ``None`` for zero.
        grad: upstream gradient that the backward operator was given, shaped like the output of ``forward``.
        primals: inputs of the forward operator, the features or the matrices, which set the arithmetic, first.
    """
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
