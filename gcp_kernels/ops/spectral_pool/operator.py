"""Operators power_pool and log_pool with their backward passes: the covariance of (B, C, M) features to a power or log.

The backward pass gets the eigenvalues of the covariance, of which small ones are zero already, and their eigenvectors.
On the side of the positions there are M of them instead of C. There the last stands for every other direction: its
eigenvalue is zero and, for M above 1, so is the vector.
"""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_floating, check_positive, check_shape

from ..library import declare
from ..shapes import empty_gradient, pooled_shape
from . import decomposition
from .side import kept_eigenvectors


def _outputs(x: Tensor, triu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate result, eigenvalues (B, s) and eigenvectors (B, C, s)."""
    b, c, m = x.shape
    s, dtype = kept_eigenvectors(c, m), accumulation_dtype(x.dtype)
    return x.new_empty(pooled_shape(b, c, triu)), x.new_empty(b, s, dtype=dtype), x.new_empty(b, c, s, dtype=dtype)


def _power_fake(x: Tensor, alpha: float, triu: bool, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, triu)


def _log_fake(x: Tensor, eps: float, triu: bool, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, triu)


def _check_power(x: Tensor, alpha: float) -> None:
    check_floating("x", x)
    check_positive("alpha", alpha)


def _check_log(x: Tensor, eps: float) -> None:
    check_floating("x", x)
    check_positive("eps", eps)


def _power_backward_fake(
    grad: Tensor, x: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, alpha: float, triu: bool, backend: str
) -> Tensor:
    return empty_gradient(x)


def _log_backward_fake(
    grad: Tensor, x: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, eps: float, triu: bool, backend: str
) -> Tensor:
    return empty_gradient(x)


def _check_backward(grad: Tensor, x: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, triu: bool) -> None:
    b, c, m = x.shape
    check_shape("grad", grad, pooled_shape(b, c, triu))
    check_shape("eigenvalues", eigenvalues, (b, kept_eigenvectors(c, m)))
    check_shape("eigenvectors", eigenvectors, (b, c, kept_eigenvectors(c, m)))


def power_reference(x: Tensor, alpha: float, triu: bool) -> Tensor:
    """Compose the power of the covariance, or its triangle, of the functions of the reference."""
    power = reference.matrix_power(reference.covariance_pool(x), alpha)
    return reference.triu_vec(power) if triu else power


def log_reference(x: Tensor, eps: float, triu: bool) -> Tensor:
    """Compose the logarithm of the covariance plus eps, or its triangle, of the functions of the reference."""
    logarithm = reference.matrix_log(reference.covariance_pool(x), eps)
    return reference.triu_vec(logarithm) if triu else logarithm


power_pool, power_pool_backward = declare(
    "power_pool",
    fake=_power_fake,
    check=_check_power,
    backward_fake=_power_backward_fake,
    check_backward=_check_backward,
    reference=power_reference,
    decomposition=decomposition.power_pool,
    in_onnx=False,
)
log_pool, log_pool_backward = declare(
    "log_pool",
    fake=_log_fake,
    check=_check_log,
    backward_fake=_log_backward_fake,
    check_backward=_check_backward,
    reference=log_reference,
    decomposition=decomposition.log_pool,
    in_onnx=False,
)
