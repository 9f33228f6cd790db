"""The readable truth: global covariance pooling in plain PyTorch.

Every kernel and every operator of the package is tested against this file in float64, and second derivatives of most
are computed through it. It is written to be read. It imports only torch, and works in whatever floating dtype it is
given. Gradients are those of autograd, except for functions of eigenvalues, where those of autograd are NaN; they are
in :mod:`gcp_kernels.eigenvalues`.

Sources: Li et al., "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
Normalization", CVPR 2018 (iSQRT-COV), section 3; Higham, "Functions of Matrices", SIAM 2008, equation (6.35) for the
coupled Newton-Schulz iteration.
"""

import torch
from torch import Tensor

from .eigenvalues import function_of_eigenvalues


def covariance_pool(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Compute the population covariance Sigma = (x - mu)(x - mu)^T / M, or diag(s) Sigma diag(s) with a scale s.

    Args:
        x: features, shape (B, C, M), floating point.
        scale: s, a number for each channel of each sample, shape (B, C), in the dtype of ``x``; ``None`` is all ones.

    Returns:
        Covariance, shape (B, C, C), in the dtype of ``x``.
    """
    # The covariance does not change when a constant is subtracted from a channel. With the first position as that
    # constant, a constant sample becomes exactly zero. Subtracting the mean alone would leave the rounding of the mean.
    shifted = x - x[..., :1].detach()
    centred = shifted - shifted.mean(dim=-1, keepdim=True)
    if scale is not None:  # the covariance of s x, whose mean is s mu
        centred = scale[..., None] * centred
    return centred @ centred.mT / x.shape[-1]


def newton_schulz_sqrt(cov: Tensor, n_iter: int = 5) -> Tensor:
    """Approximate the matrix square root by ``n_iter`` coupled Newton-Schulz iterations.

    The matrix is divided by its trace before the iteration, and the result is multiplied by the root of the trace
    (CVPR 2018, equations 3 to 5). Five iterations, as published, do not reach the exact root. A matrix of trace zero
    gives zeros with zero gradient.

    Args:
        cov: positive semi-definite matrices, shape (B, C, C); only the symmetric part is used.
        n_iter: number of iterations in all, at least 1.

    Returns:
        Shape (B, C, C), in the dtype of ``cov``.
    """
    cov = (cov + cov.mT) / 2
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    flat = trace == 0  # not "<= 0": NaN must stay NaN
    trace = torch.where(flat, 1, trace)
    a = cov / trace

    three = 3 * torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    t = (three - a) / 2
    y, z = a @ t, t
    for remaining in reversed(range(n_iter - 1)):
        t = (three - z @ y) / 2
        y = y @ t
        if remaining:  # the last iteration needs no Z
            z = t @ z
    return torch.where(flat, 0, trace.sqrt() * y)


def isqrt_pool(x: Tensor, n_iter: int = 5) -> Tensor:
    """Pool features by iSQRT-COV: the Newton-Schulz square root of the covariance of the channels.

    Args:
        x: features, shape (B, C, M), floating point.
        n_iter: number of Newton-Schulz iterations in all, at least 1.

    Returns:
        Shape (B, C, C), in the dtype of ``x``; :func:`triu_vec` makes the vector that a classifier takes.
    """
    return newton_schulz_sqrt(covariance_pool(x), n_iter)


def triu_vec(m: Tensor) -> Tensor:
    """Read the upper triangle of square matrices, row by row, diagonal included: (..., C, C) to (..., C(C+1)/2)."""
    rows, columns = torch.triu_indices(m.shape[-1], m.shape[-1], device=m.device)
    return m[..., rows, columns]


def triu_unvec(v: Tensor) -> Tensor:
    """Make symmetric matrices of upper triangles, the inverse of :func:`triu_vec`: (..., C(C+1)/2) to (..., C, C)."""
    c = int(((8 * v.shape[-1] + 1) ** 0.5 - 1) / 2 + 0.5)
    rows, columns = torch.triu_indices(c, c, device=v.device)
    position = torch.empty(c, c, dtype=torch.long, device=v.device)
    position[rows, columns] = position[columns, rows] = torch.arange(v.shape[-1], device=v.device)
    return v[..., position]


def newton_schulz_inverse_sqrt(cov: Tensor, n_iter: int = 5, eps: float = 1e-2) -> Tensor:
    """Approximate the inverse square root of cov + eps I: Z_N / sqrt(t), the other half of the iteration above.

    Z_N is the product of all N factors T of :func:`newton_schulz_sqrt`, so that Y_N = A Z_N, and t is the trace of
    cov + eps I. In exact arithmetic a zero eigenvalue has 1.5^N in Z_N. A matrix of trace zero, with ``eps``, gives
    zeros with zero gradient.

    Args:
        cov: positive semi-definite matrices, shape (B, C, C); only the symmetric part is used.
        n_iter: N, at least 1.
        eps: added to the diagonal, not negative.

    Returns:
        Shape (B, C, C), in the dtype of ``cov``.
    """
    identity = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    cov = (cov + cov.mT) / 2 + eps * identity
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    flat = trace == 0
    trace = torch.where(flat, 1, trace)
    a = cov / trace

    t = (3 * identity - a) / 2
    y, z = a @ t, t
    for _ in range(n_iter - 1):
        t = (3 * identity - z @ y) / 2
        y, z = y @ t, t @ z
    return torch.where(flat, 0, z / trace.sqrt())


def elementwise_power(v: Tensor) -> Tensor:
    """Take sign(s) sqrt(|s| + 1e-8) of each element s, then divide the vector by its L2 norm.

    Shape (..., D), in and out. An element of zero gives zero with zero gradient, and so does a vector of zeros. Lin and
    Maji, "Improved Bilinear Pooling with CNNs", BMVC 2017.
    """
    root = v.sign() * (v.abs() + 1e-8).sqrt()
    square = (root * root).sum(-1, keepdim=True)
    return root / torch.where(square == 0, 1, square).sqrt()


def cross_covariance_pool(q: Tensor, k: Tensor) -> Tensor:
    """Compute the cross-covariance of two sequences of tokens, each centred over its tokens: q^T k / N.

    Args:
        q: tokens, shape (..., N, wq), floating point.
        k: tokens, shape (..., N, wk), in the dtype of ``q``.

    Returns:
        Shape (..., wq, wk).
    """

    def centre(tokens: Tensor) -> Tensor:
        shifted = tokens - tokens[..., :1, :].detach()  # as in covariance_pool
        return shifted - shifted.mean(dim=-2, keepdim=True)

    return centre(q).mT @ centre(k) / q.shape[-2]


def singular_value_power(m: Tensor, start: Tensor, alpha: float = 0.5) -> Tensor:
    """Raise the largest singular value to the power alpha and scale the others with it, after one power iteration.

    Let v0 be the start vector, u = m v0 / |m v0|, s = |m^T u| and v = m^T u / s. After this one power iteration s
    stands for the largest singular value, and u and v for its vectors:

        out = s^alpha u v^T + (m - s u v^T) / (s^(1 - alpha) + 1e-5).

    A matrix with m v0 = 0, such as a zero matrix, has no such vectors. It gives zeros with zero gradient.

    Args:
        m: matrices, shape (..., wq, wk), floating point.
        start: v0, shape (..., wk) with leading dimensions that broadcast to those of ``m``; its length has no effect.
        alpha: the power, above 0 and at most 1; 1 leaves the matrix as it is, except for the 1e-5.

    Returns:
        Shape (..., wq, wk).
    """
    # Squares would leave the range of the dtype long before m and v0 do, so both are divided by their largest element.
    largest = _largest(m)
    scaled = m / largest
    image = scaled @ (start[..., None] / _largest(start[..., None]))
    square = (image * image).sum((-2, -1), keepdim=True)
    none = square == 0  # not "<= 0": NaN must stay NaN
    u = image / torch.where(none, 1, square).sqrt()
    projected = u.mT @ scaled  # s v^T
    square = (projected * projected).sum((-2, -1), keepdim=True)
    s = torch.where(square == 0, 1, square).sqrt() * largest
    top = u @ projected * largest
    return torch.where(none, 0, top * s ** (alpha - 1) + (m - top) / (s ** (1 - alpha) + 1e-5))


def _largest(matrices: Tensor) -> Tensor:
    """Find the largest magnitude in each matrix (..., R, C): (..., 1, 1), without gradient; 1 for a matrix of zeros."""
    largest = matrices.detach().abs().amax((-2, -1), keepdim=True)
    return torch.where(largest == 0, 1, largest)


def matrix_power(cov: Tensor, alpha: float = 0.5) -> Tensor:
    """Raise matrices to a power: U diag(l^alpha) U^T for cov = U diag(l) U^T.

    This is exact MPN-COV (Li et al., ICCV 2017), without a normalisation by the trace. Eigenvalues that are negative,
    or no larger than what rounding leaves of zero, count as zero. Where eigenvalues are equal or zero, the gradient is
    the limit of divided differences. For two zero eigenvalues and alpha < 1 there is no limit, and zero is taken. The
    gradient by features that have too few positions, so that their covariance is singular, is then exact.

    Args:
        cov: positive semi-definite matrices, shape (..., C, C); only the symmetric part is used.
        alpha: the power, above 0.

    Returns:
        Shape (..., C, C), in the dtype of ``cov``. Differentiable twice anywhere, further for distinct eigenvalues.
    """
    return function_of_eigenvalues(cov, alpha, 0.0)


def matrix_log(cov: Tensor, eps: float = 1e-3) -> Tensor:
    """Take the logarithm: U diag(log(l + eps)) U^T for cov = U diag(l) U^T; everything else is as in matrix_power."""
    return function_of_eigenvalues(cov, 0.0, eps)


def dropcov_gate(x: Tensor, gate_weight: Tensor) -> Tensor:
    """Compute w of DropCov: the softmax over the channels of a convolution of their means, along the channels.

    Args:
        x: features, shape (B, C, M), floating point.
        gate_weight: kernel of the convolution, shape (1, 1, k) with k odd, in the dtype of ``x``.

    Returns:
        Shape (B, C), in the dtype of ``x``.
    """
    means = x.mean(dim=-1)[:, None]
    convolved = torch.nn.functional.conv1d(means, gate_weight, padding=gate_weight.shape[-1] // 2)
    return convolved.squeeze(1).softmax(dim=-1)


def drop_probability(x: Tensor, gate_weight: Tensor) -> Tensor:
    """Compute p of DropCov, clamp(1 - (10 / log2 C) r, 0, 1) with r the batch mean of cos(w, row sums of Cov(x + x w)).

    Args:
        x: features, shape (B, C, M) with C of at least 2, floating point.
        gate_weight: as in :func:`dropcov_gate`.

    Returns:
        One number, shape (), without gradient. r is 0 for an empty batch.
    """
    x, gate_weight = x.detach(), gate_weight.detach()
    w = dropcov_gate(x, gate_weight)
    s = covariance_pool(x + x * w[..., None]).sum(dim=-1)
    lengths = w.norm(dim=-1) * s.norm(dim=-1)
    cosine = torch.where(lengths == 0, 0, (w * s).sum(dim=-1) / lengths)
    r = cosine.sum() / max(x.shape[0], 1)
    return (1 - 10 / torch.tensor(x.shape[1], dtype=x.dtype, device=x.device).log2() * r).clamp(0, 1)


def dropcov(x: Tensor, gate_weight: Tensor, mask: Tensor) -> Tensor:
    """Compute the covariance of gated features with channels dropped, as in the training of DropCov (NeurIPS 2022).

    Args:
        x: features, shape (B, C, M) with C of at least 2, floating point.
        gate_weight: as in :func:`dropcov_gate`.
        mask: 1 for each channel of each sample that is kept, 0 for the others, shape (B, C).

    Returns:
        Covariance, shape (B, C, C), in the dtype of ``x``; zeros where p = 1.
    """
    gated = x + x * dropcov_gate(x, gate_weight)[..., None]
    p = drop_probability(x, gate_weight)
    kept = mask * torch.where(p == 1, 0, 1 / (1 - p))
    return covariance_pool(gated * kept[..., None])
