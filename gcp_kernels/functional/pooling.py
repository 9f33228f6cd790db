"""Pooling of features by their covariance, and the square root alone."""

from torch import Tensor

from .. import ops, reference
from ..validation import check_at_least, check_choice, check_features, check_matrices, check_scale
from .arguments import OUTPUTS, channels_first, check_arithmetic, run_reference, takes_reference, wants_gradient
from .override import overridable


@overridable
def fused_gcp(
    x: Tensor,
    *,
    n_iter: int = 5,
    channel_dim: int = 1,
    output: str = "triu",
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """iSQRT-COV pooling: the covariance of the channels, its Newton-Schulz square root, and its upper triangle.

    With mu and Sigma the mean and the population covariance over all M positions and t the trace of Sigma, the result
    is sqrt(t) Y_N, where Y_N is the N-th Newton-Schulz iterate for Sigma / t (Li et al., CVPR 2018, equations 2 to 5).
    As in every published network, N = 5 iterations are not the exact root: see :func:`newton_schulz_sqrt`.

    Args:
        x: features, (B, C, *spatial) or, with ``channel_dim=-1``, tokens (B, N, C); float16, bfloat16, float32 or
            float64, any strides. Never changed.
        n_iter: N, at least 1.
        channel_dim: where the channels are; not 0.
        output: "triu" for the row-major upper triangle, diagonal included (the order of published checkpoints), or
            "full" for the symmetric matrix.
        precision: "fast" (float16 or TF32 products, relative error about 7e-4), "high" (float32-class products, below
            5e-6 for up to 6 iterations, 5 on the CUDA backend), or ``None``: "high" for float32 unless torch is allowed
            TF32, "fast" for half precision. Statistics and sums are always float32; float64 is always float64
            throughout. Each iteration more than doubles what rounding leaves where the covariance is singular: for
            many of them give float64.
        backend: "torch", "triton" or "cuda" to force one, "reference" for plain autograd of
            :mod:`gcp_kernels.reference`, "auto" or ``None`` for the first that can.

    Returns:
        (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``. A sample whose features are constant, or that has one
        position, gives zeros with zero gradient; NaN or infinity stays within its sample. Squared deviations, and their
        sum over the sample, must be in the range of float32 (float64 for float64): above it NaN, below it digits are
        lost, then it counts as zero.

    Raises:
        TypeError: ``x`` is not a tensor of one of the dtypes; ``n_iter`` or ``channel_dim`` is not an int.
        ValueError: a shape without channels or positions, or an option outside what is listed here.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> x = torch.relu(torch.randn(4, 64, 7, 7))
        >>> gcp_kernels.fused_gcp(x).shape
        torch.Size([4, 2080])
    """
    check_features(x, channel_dim)
    check_at_least("n_iter", n_iter, 1)
    check_choice("output", output, OUTPUTS)
    precision, backend = check_arithmetic(precision, backend)
    features, triu = channels_first(x, channel_dim), output == "triu"
    if takes_reference(backend):
        pooled = run_reference(reference.isqrt_pool, features, n_iter)
        return reference.triu_vec(pooled) if triu else pooled
    return ops.isqrt_pool(features, n_iter, triu, wants_gradient(x), precision, backend)[0]


@overridable
def covariance_pool(
    x: Tensor,
    *,
    scale: Tensor | None = None,
    channel_dim: int = 1,
    output: str = "full",
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Population covariance of the channels over all positions, Sigma = (x - mu)(x - mu)^T / M.

    With a scale s the result is diag(s) Sigma diag(s): element i, j times s_i s_j. DropCov (Wang et al., "DropCov: A
    Simple yet Effective Method for Improving Deep Architectures", NeurIPS 2022) drops and gates channels before the
    covariance in this way, with s the gate times the mask.

    Args:
        x: features, as for :func:`fused_gcp`.
        scale: s, (B, C), one number for each channel of each sample, of either sign or zero; float16, bfloat16, float32
            or float64, not necessarily that of ``x``, any strides. It gets a gradient too, in its own dtype. ``None``
            for no scaling.
        channel_dim: where the channels are; not 0.
        output: "full" for the symmetric matrix or "triu" for its row-major upper triangle.
        precision: as for :func:`fused_gcp`.
        backend: as for :func:`fused_gcp`.

    Returns:
        (B, C, C) or (B, C(C+1)/2), in the dtype of ``x``. A sample whose features are constant, or that has one
        position, gives zeros with zero gradient.

    Raises:
        TypeError: as :func:`fused_gcp`; ``scale`` is not a tensor of one of the dtypes.
        ValueError: as :func:`fused_gcp`; ``scale`` is not (B, C), or not on the device of ``x``.
        RuntimeError: as :func:`fused_gcp`.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.covariance_pool(torch.randn(2, 8, 49)).shape
        torch.Size([2, 8, 8])
    """
    check_features(x, channel_dim)
    if scale is not None:
        check_scale(scale, x, channel_dim)
    check_choice("output", output, OUTPUTS)
    precision, backend = check_arithmetic(precision, backend)
    features, triu = channels_first(x, channel_dim), output == "triu"
    if takes_reference(backend):
        cov = run_reference(reference.covariance_pool, features, scale)
        return reference.triu_vec(cov) if triu else cov
    return ops.covariance_pool(features, scale, triu, precision, backend)[0]


@overridable
def newton_schulz_sqrt(
    cov: Tensor, *, n_iter: int = 5, precision: str | None = None, backend: str | None = None
) -> Tensor:
    """Approximate square root of positive semi-definite matrices by ``n_iter`` Newton-Schulz iterations.

    The default, that of the published networks, is far from the exact root: for covariances of rectified normal
    features of 14x14 positions it is off by 42 % at 256 channels and 24 % at 64 (relative Frobenius norm); 10
    iterations by 2 % and 8e-6, 15 by 1.5e-5 and 7e-7. More of them lose digits again where the covariance is singular.
    :func:`matrix_power` gives the exact root, by an eigen-decomposition.

    Args:
        cov: (B, C, C), floating point, symmetric: only the symmetric part is used, and the gradient is symmetric. It
            is not checked that no eigenvalue is negative; such a matrix has no real root, and what comes is no root.
        n_iter: number of iterations in all, at least 1.
        precision: as for :func:`fused_gcp`.
        backend: as for :func:`fused_gcp`.

    Returns:
        (B, C, C), in the dtype of ``cov``. A matrix of trace zero gives zeros with zero gradient.

    Raises:
        TypeError: ``cov`` is not a floating-point tensor; ``n_iter`` is not an int.
        ValueError: ``cov`` is not (B, C, C), or an option is outside what is allowed.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> root = gcp_kernels.newton_schulz_sqrt(4 * torch.eye(3).expand(1, 3, 3), n_iter=15)
        >>> torch.allclose(root, 2 * torch.eye(3), atol=1e-5)
        True
    """
    check_matrices("cov", cov, dim=3)
    check_at_least("n_iter", n_iter, 1)
    precision, backend = check_arithmetic(precision, backend)
    if takes_reference(backend):
        return run_reference(reference.newton_schulz_sqrt, cov, n_iter)
    return ops.newton_schulz_sqrt(cov, n_iter, wants_gradient(cov), precision, backend)[0]
