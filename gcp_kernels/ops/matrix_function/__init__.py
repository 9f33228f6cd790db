"""Exact functions of the eigenvalues of matrices: powers and the logarithm."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_matrices, check_positive

from ..arguments import check_arithmetic, run_reference, takes_reference
from ..override import overridable
from . import operator


@overridable
def matrix_power(cov: Tensor, alpha: float = 0.5, *, backend: str | None = None) -> Tensor:
    """Raise matrices to a power: U diag(l^alpha) U^T for cov = U diag(l) U^T. This is exact MPN-COV.

    Li et al., "Is Second-order Information Helpful for Large-scale Visual Recognition?", ICCV 2017; there is no
    normalisation by the trace. It takes an eigen-decomposition, so it is slower than :func:`newton_schulz_sqrt`, which
    tends to the same result for alpha = 1/2. It is computed in float32 at least, without TF32, and the matrices
    are decomposed in float64: in float32 torch's decomposition fails on a CPU for some covariances with many dead
    channels, and is 100 times less exact on a GPU. There it waits for the device, and cannot be captured in a graph.

    The gradient is the Daleckii-Krein formula. Its divided differences (l_i^alpha - l_j^alpha) / (l_i - l_j) are
    written so that nothing cancels, and are finite for equal and for zero eigenvalues. For two zero eigenvalues and
    alpha < 1 the derivative is infinite; such a pair contributes nothing, as in a pseudo-inverse. Features with no
    more positions than channels have a singular covariance; with respect to them the first and the second gradient are
    then exact. Only a change that raises the rank of ``cov`` is not seen. Third and higher derivatives go through
    those of the eigenvectors: they want distinct eigenvalues, and are NaN for equal ones.

    Args:
        cov: (B, C, C), float16, bfloat16, float32 or float64, any strides, symmetric positive semi-definite: only the
            symmetric part is used. Eigenvalues below zero, or up to 10 units of rounding of the largest (1.2e-6 of it
            in float32), count as zero. Half precision is converted first; its own rounding is 1000 times that, so give
            a singular covariance in float32.
        alpha: the power, above 0. For 0 and below, a singular matrix has no power.
        backend: "torch"; ``None`` or "auto", which choose it; or "reference" for :mod:`gcp_kernels.reference`.

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
    return operator.matrix_power(cov, alpha, backend)[0]


@overridable
def matrix_log(cov: Tensor, eps: float = 1e-3, *, backend: str | None = None) -> Tensor:
    """Take the logarithm of cov + eps I: U diag(log(l + eps)) U^T for cov = U diag(l) U^T, for log-Euclidean pooling.

    Ionescu et al., "Matrix Backpropagation for Deep Networks with Structured Layers", ICCV 2015. It is computed and
    differentiated as :func:`matrix_power` is. Here every divided difference is finite; it is 1 / eps for two zero
    eigenvalues.

    Args:
        cov: as for :func:`matrix_power`.
        eps: added to the eigenvalues, above 0. It has the unit of ``cov``, so choose it by the scale of your features.
            Without it the logarithm of a singular matrix is infinite.
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
    return operator.matrix_log(cov, eps, backend)[0]
