"""Second derivatives, through the reference.

The backward operators are differentiable in the upstream gradient and in the input. Their own backward formula
differentiates the backward pass of the reference, which is plain autograd, so derivatives of any order are exact. It
keeps the reference's iterates in memory: second order is for analysis, not for the training step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype, without_autocast


def differentiate_backward(
    forward: Callable[[Tensor], Tensor], tangent: Tensor, grad: Tensor, primal: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of <tangent, J(primal)^T grad> with respect to ``grad`` and ``primal``, J being that of ``forward``.

    Args:
        forward: the reference, from ``primal`` to the operator's output.
        tangent: gradient of the backward operator's output, shaped like ``primal``.
        grad: upstream gradient that the backward operator was given, shaped like the output of ``forward``.
        primal: input of the forward operator.
    """
    dtype = accumulation_dtype(primal.dtype)

    def backward(grad: Tensor, primal: Tensor) -> Tensor:
        pull_back = torch.func.vjp(forward, primal)[1]
        return pull_back(grad)[0]

    with without_autocast(primal.device):
        pull_back = torch.func.vjp(backward, grad.to(dtype), primal.to(dtype))[1]
        grad_grad, grad_primal = pull_back(tangent.to(dtype))
    return grad_grad.to(grad.dtype), grad_primal.to(primal.dtype)
