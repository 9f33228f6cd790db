"""Every public function with a twin in the reference and small float64 inputs, for tests of what holds for all of them.

Equal and zero eigenvalues are among the matrices, where a derivative through eigenvectors would be NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import gcp_kernels
from gcp_kernels import reference
from tests.support import inputs

B, C, M = 2, 3, 5
MASK = torch.tensor([[True, True, False], [True, False, True]])


@dataclass(frozen=True)
class Case:
    """A function, its twin in the reference, and what makes their arguments."""

    function: Callable[..., Tensor]
    exact: Callable[..., Tensor]
    given: Callable[[], tuple[Tensor, ...]]


def features() -> tuple[Tensor, ...]:
    return (inputs.relu_features(B, C, M),)


def scaled_features() -> tuple[Tensor, ...]:
    return *features(), torch.randn(B, C, dtype=torch.float64)


def gated_features() -> tuple[Tensor, ...]:
    return *features(), torch.randn(1, 1, 3, dtype=torch.float64)


def matrices() -> tuple[Tensor, ...]:
    return (inputs.covariance_matrices(B, C),)


def singular_matrices() -> tuple[Tensor, ...]:
    return (torch.stack([*inputs.covariance_matrices(B - 1, C), torch.diag(torch.tensor([0.0, 1.5, 1.5]))]),)


def triangles() -> tuple[Tensor, ...]:
    return (torch.randn(B, C * (C + 1) // 2, dtype=torch.float64),)


def two_sequences() -> tuple[Tensor, ...]:
    return torch.randn(B, M, 3, dtype=torch.float64), torch.randn(B, M, 2, dtype=torch.float64)


def matrices_and_starts() -> tuple[Tensor, ...]:
    return torch.randn(B, 2, C, dtype=torch.float64), torch.randn(B, C, dtype=torch.float64)


def mask_beside(x: Tensor) -> Tensor:
    """Put the mask on the device of a plain tensor; a mode, or what only looks like one, would see the question."""
    return MASK.to(x.device) if type(x) is Tensor and not torch._C._is_torch_function_mode_enabled() else MASK


def dropcov(x: Tensor, gate_weight: Tensor) -> Tensor:
    return gcp_kernels.dropcov(x, gate_weight, training=True, mask=mask_beside(x), output="full")


def exact_dropcov(x: Tensor, gate_weight: Tensor) -> Tensor:
    return reference.dropcov(x, gate_weight, mask_beside(x))


CASES = {
    "fused_gcp": Case(gcp_kernels.fused_gcp, lambda x: reference.triu_vec(reference.isqrt_pool(x)), features),
    "fused_gcp_full": Case(lambda x: gcp_kernels.fused_gcp(x, output="full"), reference.isqrt_pool, features),
    "covariance_pool": Case(gcp_kernels.covariance_pool, reference.covariance_pool, features),
    "covariance_pool_scaled": Case(
        lambda x, scale: gcp_kernels.covariance_pool(x, scale=scale, output="triu"),
        lambda x, scale: reference.triu_vec(reference.covariance_pool(x, scale)),
        scaled_features,
    ),
    "newton_schulz_sqrt": Case(gcp_kernels.newton_schulz_sqrt, reference.newton_schulz_sqrt, matrices),
    "newton_schulz_inverse_sqrt": Case(
        gcp_kernels.newton_schulz_inverse_sqrt, reference.newton_schulz_inverse_sqrt, matrices
    ),
    "matrix_power": Case(gcp_kernels.matrix_power, reference.matrix_power, singular_matrices),
    "matrix_log": Case(gcp_kernels.matrix_log, reference.matrix_log, singular_matrices),
    "triu_vec": Case(gcp_kernels.triu_vec, reference.triu_vec, matrices),
    "triu_unvec": Case(gcp_kernels.triu_unvec, reference.triu_unvec, triangles),
    "elementwise_power": Case(gcp_kernels.elementwise_power, reference.elementwise_power, triangles),
    "cross_covariance_pool": Case(gcp_kernels.cross_covariance_pool, reference.cross_covariance_pool, two_sequences),
    "singular_value_power": Case(gcp_kernels.singular_value_power, reference.singular_value_power, matrices_and_starts),
    "dropcov": Case(dropcov, exact_dropcov, gated_features),
}


def argnums(given: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(given)))


def loss_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a scalar of the output that treats every element of it differently, mirrored ones too."""

    def loss(*given: Tensor) -> Tensor:
        value = function(*given)
        weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
        return (weights * value + (value * weights.sin()) ** 2).sum()

    return loss
