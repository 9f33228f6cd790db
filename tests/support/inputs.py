"""Features that tests pool: the spectra that matter, made in float64 and rounded to the dtype under test."""

from collections.abc import Callable

import torch
from torch import Tensor

# The largest and smallest powers of ten by which ReLU features can be scaled with their covariance in the range of
# the statistics (float32, or float64), and with themselves and their pooled root in the range of the dtype.
LARGE = {torch.float64: 1e100, torch.float32: 1e15, torch.bfloat16: 1e15, torch.float16: 1e3}
SMALL = {torch.float64: 1e-100, torch.float32: 1e-15, torch.bfloat16: 1e-15, torch.float16: 1e-3}


def relu_features(b: int, c: int, m: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw ReLU of normal noise, which the published reduction gives at the start of training."""
    return torch.randn(b, c, m, dtype=torch.float64).relu().to(dtype)


def _low_rank(b: int, c: int, m: int, dtype: torch.dtype) -> Tensor:
    rank = min(3, c)
    mixing = torch.randn(b, c, rank, dtype=torch.float64)
    return (mixing @ torch.randn(b, rank, m, dtype=torch.float64)).to(dtype)


def _rank_one_plus_noise(b: int, c: int, m: int, dtype: torch.dtype) -> Tensor:
    direction = torch.randn(b, c, 1, dtype=torch.float64)
    signal = direction * torch.randn(b, 1, m, dtype=torch.float64)
    return (signal + 0.01 * torch.randn(b, c, m, dtype=torch.float64)).to(dtype)


def _large_mean(b: int, c: int, m: int, dtype: torch.dtype) -> Tensor:
    return (1000 + torch.randn(b, c, m, dtype=torch.float64)).to(dtype)


def _repeated(b: int, c: int, m: int, dtype: torch.dtype) -> Tensor:
    """Make channels in equal pairs: repeated and zero eigenvalues."""
    return relu_features(b, (c + 1) // 2, m).repeat_interleave(2, dim=1)[:, :c].to(dtype)


def _large_scale(b: int, c: int, m: int, dtype: torch.dtype) -> Tensor:
    return (relu_features(b, c, m) * LARGE[dtype]).to(dtype)


def _small_scale(b: int, c: int, m: int, dtype: torch.dtype) -> Tensor:
    return (relu_features(b, c, m) * SMALL[dtype]).to(dtype)


SPECTRA: dict[str, Callable[[int, int, int, torch.dtype], Tensor]] = {
    "relu": relu_features,
    "low_rank": _low_rank,
    "rank_one_plus_noise": _rank_one_plus_noise,
    "mean_1000": _large_mean,
    "repeated_channels": _repeated,
    "large_scale": _large_scale,
    "small_scale": _small_scale,
}


def covariance_matrices(b: int, c: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Make symmetric positive definite matrices, the covariances of ReLU features at 2C positions."""
    x = relu_features(b, c, 2 * c)
    x = x - x.mean(-1, keepdim=True)
    cov = (x @ x.mT / x.shape[-1]).to(dtype)
    return (cov + cov.mT) / 2
