"""The square root of the covariance by optimal steps, as a pooling layer that autograd differentiates."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcp_kernels.reference import covariance_pool, triu_vec

from .coefficients import Cubic, optimal_cubics

# Of the trace. Eigenvalues below are not neglected, but converge more slowly; the report says how many there are.
SMALLEST_EIGENVALUE = 1e-3


def root_by_cubics(cov: Tensor, cubics: Sequence[Cubic]) -> Tensor:
    """Approximate the matrix square root by a coupled iteration with a cubic of its own in each step.

    With A = Sigma / tr(Sigma), Y_0 = A, Z_0 = I and P_k = a_k I - b_k Z_k Y_k the iteration is Y_{k+1} = Y_k P_k,
    Z_{k+1} = P_k Z_k (Higham, "Functions of Matrices", SIAM 2008, section 6.7, which has a = 3/2 and b = 1/2). Where A
    has an eigenvalue v, Y_k has sqrt(v) x_k, where x_0 = sqrt(v) and every step takes x to a_k x - b_k x^3: 1 - x_k is
    the relative error of the root there. The result is multiplied by the root of the trace, as that of
    :func:`gcp_kernels.reference.newton_schulz_sqrt`.

    Args:
        cov: symmetric positive semi-definite matrices, shape (B, C, C), floating point. Of trace zero, they give zeros
            with zero gradient.
        cubics: of the steps, at least one.

    Returns:
        Shape (B, C, C), in the dtype of ``cov``.
    """
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    flat = trace == 0
    trace = torch.where(flat, 1, trace)
    y = cov / trace
    identity = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    p = cubics[0].a * identity - cubics[0].b * y
    y, z = y @ p, p
    for number, cubic in enumerate(cubics[1:], 2):
        p = cubic.a * identity - cubic.b * (z @ y)
        y = y @ p
        if number < len(cubics):  # the last step needs no Z
            z = p @ z
    return torch.where(flat, 0, trace.sqrt() * y)


class OptimalRoot(nn.Module):
    """Covariance pooling whose square root has the best cubic in each step, for as many products as Newton-Schulz.

    Args:
        in_channels: C.
        steps: how many, at least 1.
        smallest: the eigenvalue, as a share of the trace, down to which the largest relative error is minimised.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C(C+1)/2), the upper triangle, as of :class:`gcp_kernels.nn.GCP`.

    Raises:
        TypeError, ValueError: at construction, for steps below 1 or an eigenvalue not between 0 and 1.
    """

    def __init__(self, in_channels: int, steps: int, smallest: float = SMALLEST_EIGENVALUE) -> None:
        super().__init__()
        if not 0 < smallest < 1:
            raise ValueError(f"smallest must be between 0 and 1, got {smallest}")
        self.cubics = optimal_cubics(smallest**0.5, steps)
        self.out_features = in_channels * (in_channels + 1) // 2

    def forward(self, features: Tensor) -> Tensor:
        """Pool a batch of features."""
        return triu_vec(root_by_cubics(covariance_pool(features.flatten(2)), self.cubics))
