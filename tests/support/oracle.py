"""Exact values in float64, by eigen-decomposition and without autograd.

Every Newton-Schulz iterate is a polynomial f of A, so f(A) = V f(lambda) V^T with f the *scalar* iteration (never
the square root: five iterations are far from it). Its Frechet derivative at a symmetric A in direction G is, by
Daleckii and Krein, V (Gamma o V^T G V) V^T with Gamma_ij the divided difference f[lambda_i, lambda_j]. Divided
differences obey a product rule, (uv)[a, b] = u(a) v[a, b] + u[a, b] v(b), which holds for a = b too and divides by
nothing, so equal and close eigenvalues are as exact as any.
"""

import torch
from torch import Tensor


def scalar_iteration(eigenvalues: Tensor, n_iter: int, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Compute f(lambda), shape (..., C), and all divided differences f[lambda_i, lambda_j], shape (..., C, C).

    f is Y_N, or Z_N for the inverse root.
    """

    def times(u: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return u[0] * v[0], u[0][..., :, None] * v[1] + u[1] * v[0][..., None, :]

    def half_of_three_minus(u: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return (3 - u[0]) / 2, -u[1] / 2

    c = eigenvalues.shape[-1]
    identity = eigenvalues, eigenvalues.new_ones(*eigenvalues.shape, c)
    t = half_of_three_minus(identity)
    y, z = times(identity, t), t
    for _ in range(n_iter - 1):
        t = half_of_three_minus(times(z, y))
        y, z = times(y, t), times(t, z)
    return z if inverse else y


def covariance_pool(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Compute the covariance (B, C, C) of (B, C, M) features in float64; element i, j times s_i s_j for a scale s."""
    x = x.double()
    # Two passes: what the first mean lost to rounding is removed by the second.
    centred = x - x.mean(-1, keepdim=True)
    centred = centred - centred.mean(-1, keepdim=True)
    cov = torch.einsum("bim,bjm->bij", centred, centred) / x.shape[-1]
    return cov if scale is None else on_both_sides(cov, scale)


def covariance_pool_grad(x: Tensor, grad: Tensor, scale: Tensor | None = None) -> Tensor:
    """Differentiate <grad, covariance_pool(x, scale)> by x for any (B, C, C) ``grad``: (G + G^T)(x - mu) / M.

    G is the gradient of the covariance, which is ``grad`` scaled on both sides.
    """
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    centred = centred - centred.mean(-1, keepdim=True)
    grad = grad.double() if scale is None else on_both_sides(grad.double(), scale)
    return (grad + grad.mT) @ centred / x.shape[-1]


def covariance_pool_scale_grad(x: Tensor, grad: Tensor, scale: Tensor) -> Tensor:
    """Differentiate <grad, covariance_pool(x, scale)> by the scale, (B, C): sum_j (G + G^T)_ij Sigma_ij s_j."""
    weights = (grad.double() + grad.double().mT) * covariance_pool(x)
    return torch.einsum("bij,bj->bi", weights, scale.double())


def on_both_sides(matrix: Tensor, scale: Tensor) -> Tensor:
    """Compute diag(s) matrix diag(s) for (B, C, C) in float64 and s of shape (B, C)."""
    return torch.einsum("bi,bij,bj->bij", scale.double(), matrix, scale.double())


def newton_schulz_sqrt(cov: Tensor, n_iter: int) -> Tensor:
    """Compute sqrt(t) f(cov / t) for (B, C, C), in float64; zeros where the trace t is zero."""
    cov = cov.double()
    trace = torch.einsum("bii->b", cov)[:, None]
    safe = torch.where(trace == 0, 1, trace)
    eigenvalues, v = torch.linalg.eigh((cov + cov.mT) / 2 / safe[..., None])
    f, _ = scalar_iteration(eigenvalues, n_iter)
    return (v * (trace.sqrt() * f)[:, None, :]) @ v.mT


def newton_schulz_sqrt_grad(cov: Tensor, n_iter: int, grad: Tensor) -> Tensor:
    """Differentiate <grad, newton_schulz_sqrt(cov)> for any (B, C, C) ``grad``; symmetric, zero for trace zero.

    With A = cov / t, r = sqrt(t), G = sym(grad) and D = r L_f(A, G), a change E of cov changes the value by
    (<D, E> - tr(E) <D, A> + tr(E) r <G, f(A)> / 2) / t.
    """
    cov, grad = cov.double(), grad.double()
    cov, grad = (cov + cov.mT) / 2, (grad + grad.mT) / 2
    trace = torch.einsum("bii->b", cov)[:, None, None]
    safe = torch.where(trace == 0, 1, trace)
    a = cov / safe
    eigenvalues, v = torch.linalg.eigh(a)
    f, gamma = scalar_iteration(eigenvalues, n_iter)
    root = trace.sqrt()
    d = root * (v @ (gamma * (v.mT @ grad @ v)) @ v.mT)
    y = (v * f[:, None, :]) @ v.mT
    shift = root * (grad * y).sum((1, 2), keepdim=True) / 2 - (d * a).sum((1, 2), keepdim=True)
    return (d + shift * torch.eye(cov.shape[-1], dtype=cov.dtype)) / safe


def newton_schulz_inverse_sqrt(cov: Tensor, n_iter: int, eps: float) -> Tensor:
    """Compute f(A) / sqrt(t) for A = (cov + eps I) / t, (B, C, C), in float64; f gives Z_N; zeros for trace zero."""
    a, trace = _normalised(cov, eps)
    eigenvalues, v = torch.linalg.eigh(a)
    f, _ = scalar_iteration(eigenvalues, n_iter, inverse=True)
    scale = torch.where(trace == 0, 0, trace.rsqrt())
    return scale * ((v * f[:, None, :]) @ v.mT)


def newton_schulz_inverse_sqrt_grad(cov: Tensor, n_iter: int, eps: float, grad: Tensor) -> Tensor:
    """Differentiate <grad, newton_schulz_inverse_sqrt(cov)> for any (B, C, C) ``grad``; symmetric, zero for trace zero.

    With D = L_f(A, sym(grad)) / sqrt(t), a change E of cov changes the value by
    (<D, E> - tr(E) <D, A> - tr(E) <grad, f(A)> / (2 sqrt(t))) / t.
    """
    a, trace = _normalised(cov, eps)
    grad = (grad.double() + grad.double().mT) / 2
    eigenvalues, v = torch.linalg.eigh(a)
    f, gamma = scalar_iteration(eigenvalues, n_iter, inverse=True)
    scale = torch.where(trace == 0, 0, trace.rsqrt())
    d = scale * (v @ (gamma * (v.mT @ grad @ v)) @ v.mT)
    z = scale * ((v * f[:, None, :]) @ v.mT)
    shift = (grad * z).sum((1, 2), keepdim=True) / 2 + (d * a).sum((1, 2), keepdim=True)
    return (d - shift * torch.eye(cov.shape[-1], dtype=a.dtype)) * scale**2


def _normalised(cov: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute the symmetric part of (cov + eps I) / t, and t, (B, 1, 1), in float64; zeros where t is zero."""
    cov = (cov.double() + cov.double().mT) / 2 + eps * torch.eye(cov.shape[-1], dtype=torch.float64)
    trace = torch.einsum("bii->b", cov)[:, None, None]
    return cov / torch.where(trace == 0, 1, trace), trace


def isqrt_pool(x: Tensor, n_iter: int) -> Tensor:
    """Pool (B, C, M) features by iSQRT-COV to the full (B, C, C), in float64."""
    return newton_schulz_sqrt(covariance_pool(x), n_iter)


def isqrt_pool_grad(x: Tensor, n_iter: int, grad: Tensor) -> Tensor:
    """Differentiate <grad, isqrt_pool(x)> for any (B, C, C) ``grad``."""
    return covariance_pool_grad(x, newton_schulz_sqrt_grad(covariance_pool(x), n_iter, grad))


def triangle(m: Tensor) -> Tensor:
    """Read the upper triangle of (..., C, C), one row after the other, by the definition."""
    c = m.shape[-1]
    return torch.cat([m[..., i, i:] for i in range(c)], dim=-1)


def triangle_grad(grad: Tensor, c: int) -> Tensor:
    """Make a (..., C, C) gradient of the triangle's: itself on and above the diagonal, zero below."""
    full = grad.new_zeros(*grad.shape[:-1], c, c)
    start = 0
    for i in range(c):
        full[..., i, i:] = grad[..., start : start + c - i]
        start += c - i
    return full
