"""Normalisations of a pooled covariance other than the Newton-Schulz square root."""

from torch import Tensor

from .. import ops, reference
from ..validation import check_at_least, check_floating, check_matrices, check_not_negative, check_positive
from .arguments import check_arithmetic, run_reference, takes_reference
from .override import overridable


@overridable
def matrix_power(cov: Tensor, alpha: float = 0.5, *, backend: str | None = None) -> Tensor:
    """U diag(l^alpha) U^T for cov = U diag(l) U^T: exact MPN-COV, without trace normalisation.

    Li et al., "Is Second-order Information Helpful for Large-scale Visual Recognition?", ICCV 2017. An
    eigen-decomposition, so slower than :func:`newton_schulz_sqrt`, and for alpha = 1/2 what that tends to. It is
    computed in float32 at least, without TF32; on a GPU it waits for the device, and cannot be captured in a graph.

    The gradient is that of the Daleckii-Krein formula, with divided differences (l_i^alpha - l_j^alpha) / (l_i - l_j)
    in a form in which nothing cancels, and finite for equal and zero eigenvalues. Two zero eigenvalues and alpha < 1,
    where the derivative is infinite, contribute nothing, as in a pseudo-inverse. With respect to features whose
    covariance is singular because they have no more positions than channels, the gradient is then exact, and so is the
    second; only a change that raises the rank of ``cov`` is not seen. Third and higher derivatives go through those of
    the eigenvectors: they want distinct eigenvalues, and are NaN for equal ones.

    Args:
        cov: (B, C, C), float16, bfloat16, float32 or float64, any strides, symmetric positive semi-definite: only the
            symmetric part is used, and eigenvalues below zero, or up to 10 units of rounding of the largest (1.2e-6 of
            it in float32), count as zero. Half precision is converted first: its own rounding is 1000 times that, and a
            singular covariance is better given in float32.
        alpha: the power, above 0. At 0 and below, which are not allowed, a singular matrix has none.
        backend: "torch", or ``None`` or "auto", which take it; "reference" for :mod:`gcp_kernels.reference`.

    Returns:
        (B, C, C), in the dtype of ``cov``. NaN or infinity stays within its sample.

    Raises:
        TypeError: ``cov`` is not a floating-point tensor; ``alpha`` is not a number.
        ValueError: ``cov`` is not (B, C, C); ``alpha`` is not above 0 and finite; an unknown backend.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.matrix_power(torch.diag(torch.tensor([4.0, 9.0]))[None])
        tensor([[[2., 0.],
                 [0., 3.]]])
    """
    check_matrices("cov", cov, dim=3)
    check_positive("alpha", alpha)
    _, backend = check_arithmetic(None, backend)
    if takes_reference(backend):
        return run_reference(reference.matrix_power, cov, alpha)
    return ops.matrix_power(cov, alpha, backend)[0]


@overridable
def matrix_log(cov: Tensor, eps: float = 1e-3, *, backend: str | None = None) -> Tensor:
    """U diag(log(l + eps)) U^T for cov = U diag(l) U^T: the logarithm of cov + eps I, for log-Euclidean pooling.

    Ionescu et al., "Matrix Backpropagation for Deep Networks with Structured Layers", ICCV 2015. Computed, and
    differentiated, as :func:`matrix_power` is; here every divided difference is finite, 1 / eps for two zero
    eigenvalues.

    Args:
        cov: as for :func:`matrix_power`.
        eps: added to the eigenvalues, above 0: in the unit of ``cov``, so choose it by the scale of your features. The
            logarithm of a singular matrix without it is infinite.
        backend: as for :func:`matrix_power`.

    Returns:
        (B, C, C), in the dtype of ``cov``. NaN or infinity stays within its sample.

    Raises:
        TypeError: ``cov`` is not a floating-point tensor; ``eps`` is not a number.
        ValueError: ``cov`` is not (B, C, C); ``eps`` is not above 0 and finite; an unknown backend.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.matrix_log(torch.zeros(1, 2, 2), eps=1.0)
        tensor([[[0., 0.],
                 [0., 0.]]])
    """
    check_matrices("cov", cov, dim=3)
    check_positive("eps", eps)
    _, backend = check_arithmetic(None, backend)
    if takes_reference(backend):
        return run_reference(reference.matrix_log, cov, eps)
    return ops.matrix_log(cov, eps, backend)[0]


@overridable
def newton_schulz_inverse_sqrt(
    cov: Tensor, n_iter: int = 5, eps: float = 1e-2, *, precision: str | None = None, backend: str | None = None
) -> Tensor:
    """Approximate inverse square root of cov + eps I by Newton-Schulz iterations, for ZCA whitening.

    The iteration of :func:`newton_schulz_sqrt` on (cov + eps I) / t, t being the trace, has a second limit: Z_N tends
    to the inverse square root (Higham, "Functions of Matrices", SIAM 2008, equation 6.35), and the result is
    Z_N / sqrt(t). No eigenvalue of Z_N exceeds 1.5^N, and few iterations are far from the limit: for covariances of
    rectified normal features of 14x14 positions and eps 1e-2, five are off by 89 % at 256 channels and 40 % at 64
    (relative Frobenius norm), seven by 78 % and 10 %, ten by 41 % and 2e-5. Kept for the backward pass are ``cov`` and
    its traces.

    Args:
        cov: (B, C, C), as for :func:`newton_schulz_sqrt`.
        n_iter: N, at least 1.
        eps: added to the diagonal, in the unit of ``cov``, at least 0; 1e-2 in decorrelated batch normalisation (Huang
            et al., CVPR 2018).
        precision: as for :func:`fused_gcp`.
        backend: "torch", or ``None`` or "auto", which take it; "reference" for :mod:`gcp_kernels.reference`.

    Returns:
        (B, C, C), in the dtype of ``cov``. A matrix whose trace, with ``eps``, is zero gives zeros with zero gradient.

    Raises:
        TypeError: ``cov`` is not a floating-point tensor; ``n_iter`` is not an int, or ``eps`` not a number.
        ValueError: ``cov`` is not (B, C, C), or an option is outside what is allowed.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> root = gcp_kernels.newton_schulz_inverse_sqrt(4 * torch.eye(3).expand(1, 3, 3), n_iter=15, eps=0.0)
        >>> torch.allclose(root, torch.eye(3) / 2, atol=1e-5)
        True
    """
    check_matrices("cov", cov, dim=3)
    check_at_least("n_iter", n_iter, 1)
    check_not_negative("eps", eps)
    precision, backend = check_arithmetic(precision, backend)
    if takes_reference(backend):
        return run_reference(reference.newton_schulz_inverse_sqrt, cov, n_iter, eps)
    return ops.newton_schulz_inverse_sqrt(cov, n_iter, eps, precision, backend)[0]


@overridable
def elementwise_power(v: Tensor) -> Tensor:
    """sign(s) sqrt(|s| + 1e-8) of each element, then division of the vector by its L2 norm.

    The normalisation of improved bilinear pooling (Lin and Maji, BMVC 2017), for pooled vectors. Computed in
    float32 at least, where 1e-8 is not zero. An element of zero stays zero, with zero gradient, as does a whole vector.

    Args:
        v: (..., D), float16, bfloat16, float32 or float64, any strides.

    Returns:
        (..., D), in the dtype of ``v``, each vector of length 1 or 0.

    Raises:
        TypeError: ``v`` is not a floating-point tensor.
        ValueError: ``v`` has no dimension.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.elementwise_power(torch.tensor([9.0, 0.0, -16.0]))
        tensor([ 0.6000,  0.0000, -0.8000])
    """
    check_floating("v", v)
    if v.dim() == 0:
        raise ValueError("v must have shape (..., D), got a tensor without dimensions")
    return run_reference(reference.elementwise_power, v)
