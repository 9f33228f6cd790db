"""The readable truth: global covariance pooling in plain PyTorch.

Every kernel and every operator of the package is tested against this file in float64, and second-order gradients
are computed through it. It is written to be read, imports only torch, works in whatever floating dtype it is given,
and leaves all gradients to autograd.

Sources: Li et al., "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
Normalization", CVPR 2018 (iSQRT-COV), section 3; Higham, "Functions of Matrices", SIAM 2008, equation (6.35) for the
coupled Newton-Schulz iteration.
"""

import torch
from torch import Tensor


def covariance_pool(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Population covariance of the channels: Sigma = (x - mu)(x - mu)^T / M, or diag(s) Sigma diag(s) with a scale s.

    Args:
        x: features, shape (B, C, M), floating point.
        scale: s, a number for each channel of each sample, shape (B, C), in the dtype of ``x``; none is all ones.

    Returns:
        Covariance, shape (B, C, C), in the dtype of ``x``.
    """
    # The covariance does not change when a constant is subtracted from a channel. Taking the first position as that
    # constant makes a constant sample exactly zero, whereas its mean alone would leave rounding noise of the mean.
    shifted = x - x[..., :1].detach()
    centred = shifted - shifted.mean(dim=-1, keepdim=True)
    if scale is not None:  # the covariance of s x, whose mean is s mu
        centred = scale[..., None] * centred
    return centred @ centred.mT / x.shape[-1]


def newton_schulz_sqrt(cov: Tensor, n_iter: int = 5) -> Tensor:
    """Approximate matrix square root by ``n_iter`` coupled Newton-Schulz iterations.

    The matrix is divided by its trace before the iteration and the result multiplied by the root of the trace after
    it (CVPR 2018, equations 3 to 5). Five iterations, as published, are not the exact root. A matrix of trace zero
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
    """iSQRT-COV pooling: the Newton-Schulz square root of the covariance of the channels.

    Args:
        x: features, shape (B, C, M), floating point.
        n_iter: number of Newton-Schulz iterations in all, at least 1.

    Returns:
        Shape (B, C, C), in the dtype of ``x``; :func:`triu_vec` makes the vector that a classifier takes.
    """
    return newton_schulz_sqrt(covariance_pool(x), n_iter)


def triu_vec(m: Tensor) -> Tensor:
    """Upper triangle of square matrices, row by row, diagonal included: (..., C, C) to (..., C(C+1)/2)."""
    rows, columns = torch.triu_indices(m.shape[-1], m.shape[-1], device=m.device)
    return m[..., rows, columns]


def triu_unvec(v: Tensor) -> Tensor:
    """Symmetric matrices from upper triangles, the inverse of :func:`triu_vec`: (..., C(C+1)/2) to (..., C, C)."""
    c = int(((8 * v.shape[-1] + 1) ** 0.5 - 1) / 2 + 0.5)
    rows, columns = torch.triu_indices(c, c, device=v.device)
    position = torch.empty(c, c, dtype=torch.long, device=v.device)
    position[rows, columns] = position[columns, rows] = torch.arange(v.shape[-1], device=v.device)
    return v[..., position]


def dropcov_gate(x: Tensor, gate_weight: Tensor) -> Tensor:
    """w of DropCov: softmax over the channels of a convolution, along the channels, of their means.

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
    """p of DropCov: clamp(1 - (10 / log2 C) r, 0, 1), with r the batch mean of cos(w, row sums of Cov(x + x w)).

    Args:
        x: features, shape (B, C, M) with C of at least 2, floating point.
        gate_weight: as in :func:`dropcov_gate`.

    Returns:
        One number, shape (), without gradient. An empty batch has r = 0.
    """
    x, gate_weight = x.detach(), gate_weight.detach()
    w = dropcov_gate(x, gate_weight)
    s = covariance_pool(x + x * w[..., None]).sum(dim=-1)
    lengths = w.norm(dim=-1) * s.norm(dim=-1)
    cosine = torch.where(lengths == 0, 0, (w * s).sum(dim=-1) / lengths)
    r = cosine.sum() / max(x.shape[0], 1)
    return (1 - 10 / torch.tensor(x.shape[1], dtype=x.dtype, device=x.device).log2() * r).clamp(0, 1)


def dropcov(x: Tensor, gate_weight: Tensor, mask: Tensor) -> Tensor:
    """Covariance of gated features with channels dropped, as DropCov has it in training (NeurIPS 2022).

    Args:
        x: features, shape (B, C, M) with C of at least 2, floating point.
        gate_weight: as in :func:`dropcov_gate`.
        mask: 1 for each channel of each sample that is kept, else 0, shape (B, C).

    Returns:
        Covariance, shape (B, C, C), in the dtype of ``x``; zeros where p = 1.
    """
    gated = x + x * dropcov_gate(x, gate_weight)[..., None]
    p = drop_probability(x, gate_weight)
    kept = mask * torch.where(p == 1, 0, 1 / (1 - p))
    return covariance_pool(gated * kept[..., None])
