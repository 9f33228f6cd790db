"""The operations of the widely copied public implementation, one by one, in eager PyTorch: what most networks run.

Written from the formulas of iSQRT-COV (Li et al., CVPR 2018) with the habits of that implementation, none of which is
needed: an M x M centring matrix for every sample, identity matrices repeated over the batch, every iterate stored for
the backward pass, 38 products in it at N = 5, a Python loop over the samples for the gradient of the trace, and a
triangle whose index is looked up on the device in every call.
"""

from __future__ import annotations

from typing import Any

import torch


def repeated_identity(batch: int, size: int, like: torch.Tensor) -> torch.Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device).repeat(batch, 1, 1)


class Covariance(torch.autograd.Function):
    """x J x^T for (B, C, M) features and the centring matrix J = I / M - 1 1^T / M^2."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        batch, _, m = x.shape
        ones = torch.ones(m, m, dtype=x.dtype, device=x.device)
        centring = (torch.eye(m, dtype=x.dtype, device=x.device) / m - ones / m / m).repeat(batch, 1, 1)
        ctx.save_for_backward(x, centring)
        return x.bmm(centring).bmm(x.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        x, centring = ctx.saved_tensors
        return (grad + grad.transpose(1, 2)).bmm(x).bmm(centring)


class NewtonSchulz(torch.autograd.Function):
    """N coupled iterations on (B, C, C), normalised by the trace and compensated by its root."""

    @staticmethod
    def forward(ctx: Any, cov: torch.Tensor, n_iter: int) -> torch.Tensor:
        if n_iter < 2:  # where the public code refers to a variable that it has not set
            raise ValueError(f"the published operations need n_iter of at least 2, got {n_iter}")
        batch, size, _ = cov.shape
        three = 3.0 * repeated_identity(batch, size, cov)
        trace = (cov * three / 3.0).sum(dim=(1, 2))
        a = cov / trace.view(batch, 1, 1)
        ys = torch.zeros(batch, n_iter - 1, size, size, dtype=cov.dtype, device=cov.device)
        zs = repeated_identity(batch, size, cov).unsqueeze(1).repeat(1, n_iter - 1, 1, 1)
        t = 0.5 * (three - a)
        ys[:, 0], zs[:, 0] = a.bmm(t), t
        for k in range(1, n_iter - 1):
            t = 0.5 * (three - zs[:, k - 1].bmm(ys[:, k - 1]))
            ys[:, k], zs[:, k] = ys[:, k - 1].bmm(t), t.bmm(zs[:, k - 1])
        last = 0.5 * ys[:, -1].bmm(three - zs[:, -1].bmm(ys[:, -1]))
        ctx.save_for_backward(cov, a, last, trace, ys, zs)
        return last * trace.sqrt().view(batch, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        cov, a, last, trace, ys, zs = ctx.saved_tensors
        batch, size, _ = cov.shape
        identity = repeated_identity(batch, size, cov)
        three = 3.0 * identity

        grad_last = grad * trace.sqrt().view(batch, 1, 1)
        y, z = ys[:, -1], zs[:, -1]
        grad_y = 0.5 * (grad_last.bmm(three - y.bmm(z)) - z.bmm(y).bmm(grad_last))
        grad_z = -0.5 * y.bmm(grad_last).bmm(y)
        for k in reversed(range(ys.shape[1] - 1)):
            y, z = ys[:, k], zs[:, k]
            rest, zy = three - y.bmm(z), z.bmm(y)
            grad_y, grad_z = (
                0.5 * (grad_y.bmm(rest) - z.bmm(grad_z).bmm(z) - zy.bmm(grad_y)),
                0.5 * (rest.bmm(grad_z) - y.bmm(grad_y).bmm(y) - grad_z.bmm(zy)),
            )
        grad_a = 0.5 * (grad_y.bmm(three - a) - grad_z - a.bmm(grad_y))

        grad_cov = grad_a / trace.view(batch, 1, 1)
        from_normalisation = (grad_a * cov).sum(dim=(1, 2))
        from_compensation = (grad * last).sum(dim=(1, 2)) / (2 * trace.sqrt())
        for i in range(batch):
            grad_cov[i] += (from_compensation[i] - from_normalisation[i] / trace[i] ** 2) * identity[i]
        return grad_cov, None


class Triangle(torch.autograd.Function):
    """(B, C, C) -> (B, C(C+1)/2), row by row."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        batch, size, _ = matrix.shape
        index = torch.ones(size, size, device=matrix.device).triu().reshape(-1).nonzero().squeeze(1)
        ctx.save_for_backward(matrix, index)
        return matrix.reshape(batch, size * size)[:, index]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        matrix, index = ctx.saved_tensors
        batch, size, _ = matrix.shape
        flat = torch.zeros(batch, size * size, dtype=grad.dtype, device=grad.device)
        flat[:, index] = grad
        return flat.reshape(batch, size, size)


def published_pool(features: torch.Tensor, n_iter: int) -> torch.Tensor:
    """Pool (B, C, H, W) -> (B, C(C+1)/2), with at least two iterations."""
    return Triangle.apply(NewtonSchulz.apply(Covariance.apply(features.flatten(2)), n_iter))
