"""What isqrt_pool in batched products does on the side of the positions, before and after the iteration.

With z = (x - mu) / sqrt(t M) and K = z^T z, the result is sqrt(t) z q(K) z^T for q(K) = Z_N, of (M, M). The derivation,
and that of the gradient, is in docs/mathematics.md, "On the smaller side".
"""

import torch
from torch import Tensor

from ..shapes import empty_gradient
from ..torch_device.features import multiply_features, multiply_pair
from ..torch_device.iteration import Iterates
from ..torch_device.normalisation import GradientScratch, inverse_root, normalise
from ..torch_device.triangle import fold_gradient, multiply_to_triangle


def start_on_positions(centred: Tensor, out: Tensor) -> Tensor:
    """Write K + 1 1^T / M^2 (b, M, M) into ``out`` from x - mu (b, C, M); return the traces t of Sigma (b,).

    z takes the vector 1 of ones to zero, so what K does to it has no part in the result. It would be a zero eigenvalue,
    whose rounding errors grow in every iteration: it is given the mean of all eigenvalues, 1 / M. A constant sample
    gets the identity besides: it has nothing but zero eigenvalues, where Z would grow until it overflows.
    """
    m = centred.shape[-1]
    torch.bmm(centred.mT, centred, out=out)
    trace = normalise(out) / m
    out.add_(1 / m**2).diagonal(dim1=-2, dim2=-1).add_((trace == 0)[:, None])
    return trace


def write_pooled(iterates: Iterates, centred: Tensor, trace: Tensor, triu: bool, out: Tensor) -> None:
    """Write sqrt(t) z q(K) z^T into ``out``.

    Args:
        iterates: of q(K) = Z_N, (b, M, M).
        centred: x - mu, (b, C, M).
        trace: t, (b,).
        triu: whether ``out`` is the upper triangle, (b, C(C+1)/2), or the whole, (b, C, C).
        out: of any floating dtype.
    """
    m = centred.shape[-1]
    rows = torch.baddbmm(centred, centred, iterates.last, beta=iterates.last_identity_part)
    rows.mul_(inverse_root(trace) / m)
    if triu:
        multiply_to_triangle(rows, centred.mT, out=out)
    elif out.dtype == rows.dtype:
        torch.bmm(rows, centred.mT, out=out)
    else:
        out.copy_(torch.bmm(rows, centred.mT))


class PositionScratch:
    """Working memory of the backward pass for one slice of the batch: what is as large as features or a covariance."""

    def __init__(self, trace: Tensor, size: int, x: Tensor) -> None:
        c = x.shape[1]
        self._twice_g = trace.new_empty(size, c, c)
        self._twice_h = empty_gradient(x, size, trace.dtype)

    def write_gradient(
        self,
        scratch: GradientScratch,
        iterates: Iterates,
        centred: Tensor,
        trace: Tensor,
        grad: Tensor,
        triu: bool,
        out: Tensor,
    ) -> None:
        """Write dL/dx = 2 / sqrt(M) (H q(K) + z (L + a I)) into ``out``, where H = G z; see :meth:`gram_gradient`.

        Args:
            scratch: working memory for matrices (b, M, M).
            iterates: those of the forward pass.
            centred: x - mu, (b, C, M). Overwritten.
            trace: t, (b,).
            grad: gradient of the pooled features, whose symmetric part is G.
            triu: whether that is of the upper triangle, (b, C(C+1)/2), or of the whole, (b, C, C).
            out: (b, C, M).
        """
        b, _, m = centred.shape
        z = centred.mul_(inverse_root(trace) / m**0.5)
        twice_g, twice_h = fold_gradient(grad, triu, out=self._twice_g[:b]), self._twice_h[:b]
        multiply_features(twice_g, z, out=twice_h)
        twice_p = torch.bmm(z.mT, twice_h, out=scratch.matrix(b))
        derivative = scratch.gram_gradient(iterates, twice_p).div_(m**0.5)
        part = iterates.last_identity_part / m**0.5
        multiply_pair(twice_h, iterates.last / m**0.5, z, derivative, own=part, out=out)
