"""power_pool and log_pool: functions of the eigenvalues of the covariance, decomposed on its smaller side.

On the side of the channels the eigenvectors V are those of Sigma, all C. On the side of the positions an orthonormal
basis Q of the centred features, x - mu = Q R, gives Sigma = Q (R R^T / M) Q^T. So the eigenvectors U of the smaller
matrix R R^T / M give those of Sigma, V = Q U, and every direction that is not in V has eigenvalue zero:

    f(Sigma) = V diag(f(l) - f(0)) V^T + f(0) I

Everything is computed in the accumulation dtype, but the eigen-decomposition, which is in float64 (see
:func:`gcp_kernels.eigenvalues.eigh`); no product uses TF32.
"""

from math import log, sqrt

import torch
from torch import Tensor
from torch.nn.functional import pad

from gcp_kernels.precision import accumulation_dtype

from ..shapes import empty_gradient, pooled_shape
from ..torch_device.batch_slices import FEW_MATRICES, slice_size, slices
from ..torch_device.eigenvalues import decompose, log_differences, power_differences
from ..torch_device.features import subtract_mean
from ..torch_device.products import matmul_precision
from ..torch_device.triangle import fold_gradient, triangle_map
from .side import kept_eigenvectors


def power_pool(x: Tensor, alpha: float, triu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> power (B, C(C+1)/2) or (B, C, C), eigenvalues (B, s), eigenvectors (B, C, s).

    s is :func:`kept_eigenvectors`.
    """
    eigenvalues, eigenvectors = _decompose(x)
    return _compose(eigenvalues.pow(alpha), 0.0, eigenvectors, x, triu), eigenvalues, eigenvectors


def power_pool_backward(
    grad: Tensor, x: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, alpha: float, triu: bool
) -> Tensor:
    """Backward: gradient of the power -> gradient of ``x``, laid out like it."""
    return _gradient(power_differences(eigenvalues, alpha), eigenvectors, grad, x, triu)


def log_pool(x: Tensor, eps: float, triu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: (B, C, M) -> logarithm (B, C(C+1)/2) or (B, C, C), eigenvalues and eigenvectors as in the power.

    The eigenvalues are those of the covariance, without eps.
    """
    eigenvalues, eigenvectors = _decompose(x)
    return _compose((eigenvalues + eps).log(), log(eps), eigenvectors, x, triu), eigenvalues, eigenvectors


def log_pool_backward(
    grad: Tensor, x: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, eps: float, triu: bool
) -> Tensor:
    """Backward: gradient of the logarithm -> gradient of ``x``, laid out like it."""
    return _gradient(log_differences(eigenvalues + eps), eigenvectors, grad, x, triu)


def _decompose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Find the eigenvalues l (B, s) of the covariance and their eigenvectors V (B, C, s).

    On the side of the positions the last eigenvalue and its vector are zero, for all directions that are not in V.
    """
    b, c, m = x.shape
    s, dtype = kept_eigenvectors(c, m), accumulation_dtype(x.dtype)
    order = c if s == c else max(m - 1, 1)
    matrix = x.new_empty(b, order, order, dtype=dtype)
    basis = x.new_empty(b, c, order, dtype=dtype) if s < c else None
    with matmul_precision(x.device, x.dtype, "high"):
        for part in slices(b, slice_size(b, c, m, dtype, x.device, FEW_MATRICES)):
            rows, _ = subtract_mean(x[part], dtype)
            if basis is not None:
                # Householder's Q is orthonormal whatever the rank. Eigenvectors of the Gram matrix of the positions
                # would have to be divided by roots of small eigenvalues, and would lose their right angles.
                basis[part], rows = torch.linalg.qr(_without_mean(rows))
            torch.bmm(rows, rows.mT, out=matrix[part]).div_(m)
        eigenvalues, eigenvectors = decompose(matrix)
        if basis is None:
            return eigenvalues, eigenvectors
        others = (0, s - order)
        return pad(eigenvalues, others), pad(torch.bmm(basis, eigenvectors), others)


def _without_mean(centred: Tensor) -> Tensor:
    """Turn centred features (b, C, M) so that the first position becomes zero, and leave it out: (b, C, M - 1).

    It is Householder's reflection that takes the vector of ones to the first axis. It changes no covariance. Centred
    features have no part in the vector of ones but for rounding, which the gradient would multiply by the largest of
    all slopes, 1 / eps for the logarithm. One position is left as it is: it is zero already.
    """
    m = centred.shape[-1]
    return centred if m == 1 else centred[..., 1:] - centred[..., :1] / (1 + sqrt(m))


def _compose(values: Tensor, at_zero: float, eigenvectors: Tensor, x: Tensor, triu: bool) -> Tensor:
    """Compute V diag(f(l) - f(0)) V^T + f(0) I, its triangle or all of it, in the dtype of ``x``."""
    b, c, m = x.shape
    if values.shape[1] == c:  # no other direction has eigenvalue zero, and nothing need cancel
        at_zero = 0.0
    weights = values - at_zero
    pooled = x.new_empty(pooled_shape(b, c, triu))
    with matmul_precision(x.device, x.dtype, "high"):
        for part in slices(b, slice_size(b, c, m, eigenvectors.dtype, x.device, FEW_MATRICES)):
            v = eigenvectors[part]
            f = torch.bmm(v * weights[part, None, :], v.mT)
            if at_zero:
                f.diagonal(dim1=-2, dim2=-1).add_(at_zero)
            pooled[part] = f.flatten(1).index_select(1, triangle_map(c, x.device)) if triu else f
    return pooled


def _gradient(differences: Tensor, eigenvectors: Tensor, grad: Tensor, x: Tensor, triu: bool) -> Tensor:
    """Compute 2 / M L_f(Sigma, G) (x - mu), laid out like ``x``, for the upstream gradient Gbar, G = (Gbar + Gbar^T)/2.

    x - mu = V V^T (x - mu), so only L_f(Sigma, G) V is needed, of shape (C, s). With H = G V, E = V^T H and the divided
    differences F = f[l_i, l_j] within V, f0 = f[l_j, 0] to all other directions, it is

        V (F o E) + (H - V E) diag(f0) = H diag(f0) + V ((F - f0) o E)

    Args:
        differences: F, (B, s, s). On the side of the positions the last row is f0.
        eigenvectors: V, (B, C, s).
        grad: Gbar, (B, C(C+1)/2) or (B, C, C).
        x: features, (B, C, M).
        triu: whether ``grad`` is that of a triangle.
    """
    b, c, m = x.shape
    dtype = eigenvectors.dtype
    grad_x = empty_gradient(x)
    size = slice_size(b, c, m, dtype, x.device, FEW_MATRICES)
    twice_g = x.new_empty(size, c, c, dtype=dtype)
    to_zero = differences[:, -1:]
    with matmul_precision(x.device, x.dtype, "high"):
        for part in slices(b, size):
            v = eigenvectors[part]
            h = torch.bmm(fold_gradient(grad[part], triu, out=twice_g[: part.stop - part.start]), v)
            e = torch.bmm(v.mT, h)
            if v.shape[2] == c:  # there are no other directions
                derivative = torch.bmm(v, e.mul_(differences[part]))
            else:
                derivative = torch.baddbmm(h * to_zero[part], v, e.mul_(differences[part] - to_zero[part]))
            centred, _ = subtract_mean(x[part], dtype)
            grad_x[part] = torch.bmm(derivative, torch.bmm(v.mT, centred).div_(m))
    return grad_x
