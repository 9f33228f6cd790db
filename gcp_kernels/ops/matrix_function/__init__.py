"""Exact functions of the eigenvalues of matrices: powers and the logarithm."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_matrices, check_positive

from ..arguments import check_arithmetic, run_reference, takes_reference
from ..override import overridable
from . import operator


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
    return operator.matrix_power(cov, alpha, backend)[0]


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
    return operator.matrix_log(cov, eps, backend)[0]
