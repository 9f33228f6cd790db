"""DropCov as tests run it: inputs, the function with a given mask, and the reference."""

import importlib

import torch
from torch import Tensor

from gcp_kernels import dropcov, reference
from tests.support import inputs

# The module behind dropcov, in which a test replaces the probability.
DROPCOV = importlib.import_module("gcp_kernels.ops.dropcov")


def features(b: int, c: int, m: int, decades: float = 0.4, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw rectified noise whose channels differ in strength: the more, the less their row sums are like the gate."""
    strength = torch.logspace(0, -decades, c, dtype=torch.float64)[:, None]
    return (strength * inputs.relu_features(b, c, m)).to(dtype)


def gate_weight(size: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, 1, size, dtype=torch.float64).to(dtype)


def probability(x: Tensor, weight: Tensor) -> Tensor:
    return DROPCOV.drop_probability(x, DROPCOV.channel_weight(x, weight))


def random_mask(b: int, c: int) -> Tensor:
    return torch.rand(b, c) < 0.6


def ours(x: Tensor, weight: Tensor, mask: Tensor, **options: object) -> Tensor:
    return dropcov(x, weight, training=True, mask=mask, **options)


def of_reference(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    return reference.triu_vec(reference.dropcov(x, weight, mask))
