"""newton_schulz_inverse_sqrt in batched products: the factor Z, which the square root does without, and its derivative.

With W = Z Y, as in torch_device/iteration.py, Z is the product of all T = (3 I - W) / 2:

    Z <- Z T = 3/2 Z - 1/2 Z W;    W <- W T T = 9/4 W - 3/2 W^2 + 1/4 W^3

in 3 N - 3 products. All matrices are polynomials of A, so the backward pass is the tangent of the same steps. It
computes the iterates again as it goes, so only the input and its trace are kept between the passes.
"""

import torch
from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..torch_device.batch_slices import slice_size, slices
from ..torch_device.normalisation import inner, inverse_root, normalise
from ..torch_device.products import iteration_precision


def newton_schulz_inverse_sqrt(cov: Tensor, n_iter: int, eps: float, precision: str) -> tuple[Tensor, Tensor]:
    """Forward: (B, C, C) -> Z_N / sqrt(t) of cov + eps I, (B, C, C), and the trace t, (B,)."""
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    root = torch.empty_like(cov, memory_format=torch.contiguous_format)
    trace = cov.new_empty(b, dtype=dtype)
    with iteration_precision(cov.device, cov.dtype, precision):
        for part in slices(b, slice_size(b, c, c, dtype, cov.device)):
            w, trace[part] = start(cov[part], eps)
            z = first_factor(w)
            for _ in range(n_iter - 1):
                w = next_w(w)
                z = torch.baddbmm(z, z, w, beta=1.5, alpha=-0.5)
            root[part] = z.mul_(inverse_root(trace[part]))
    return root, trace


def newton_schulz_inverse_sqrt_backward(
    grad: Tensor, cov: Tensor, trace: Tensor, n_iter: int, eps: float, precision: str
) -> Tensor:
    """Backward: gradient of the inverse root -> gradient of ``cov``, symmetric, both (B, C, C).

    Let G be the symmetric part of the upstream gradient, and L the derivative of A -> Z_N in the direction G. Then the
    gradient is t^(-3/2) (L + a I) with the trace term a = -<G, Z_N> / 2 - <L, A>.
    """
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    grad_cov = torch.empty_like(cov, memory_format=torch.contiguous_format)
    with iteration_precision(cov.device, cov.dtype, precision):
        for part in slices(b, slice_size(b, c, c, dtype, cov.device)):
            a, _ = start(cov[part], eps)
            g = grad[part].to(dtype)
            g = (g + g.mT).mul_(0.5)
            z, dz = with_tangent(a, g, n_iter)
            dz.diagonal(dim1=-2, dim2=-1).sub_((inner(g, z) / 2 + inner(dz, a))[:, None])
            scale = inverse_root(trace[part])
            grad_cov[part] = dz.mul_(scale).mul_(scale**2)
    return grad_cov


def start(cov: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Find A and t: the symmetric part of (b, C, C) matrices plus eps I, divided by its trace; and the trace (b,)."""
    cov = cov.to(accumulation_dtype(cov.dtype))
    a = (cov + cov.mT).mul_(0.5)
    a.diagonal(dim1=-2, dim2=-1).add_(eps)
    return a, normalise(a)


def first_factor(a: Tensor) -> Tensor:
    """Compute Z_1 = T_0 = (3 I - A) / 2."""
    factor = a * -0.5
    factor.diagonal(dim1=-2, dim2=-1).add_(1.5)
    return factor


def next_w(w: Tensor) -> Tensor:
    """Compute the next W, W T T with T = (3 I - W) / 2."""
    wt = torch.baddbmm(w, w, w, beta=1.5, alpha=-0.5)
    return torch.baddbmm(wt, wt, w, beta=1.5, alpha=-0.5)


def with_tangent(a: Tensor, g: Tensor, n_iter: int) -> tuple[Tensor, Tensor]:
    """Compute Z_N and its derivative in the symmetric direction ``g``, which is not changed."""
    w, dw = a, g
    z, dz = first_factor(a), g * -0.5
    for _ in range(n_iter - 1):
        # For P = W dW, d(W^2) = P + P^T and d(W^3) = H + H^T with H = W (P + P^T / 2).
        p = torch.bmm(w, dw)
        half = dw.sub(p, alpha=4 / 3).baddbmm_(w, p.add(p.mT, alpha=0.5), beta=9 / 8, alpha=1 / 4)
        w, dw = next_w(w), half + half.mT
        dz = torch.baddbmm(dz, dz, w, beta=1.5, alpha=-0.5).baddbmm_(z, dw, alpha=-0.5)
        z = torch.baddbmm(z, z, w, beta=1.5, alpha=-0.5)
    return z, dz
