"""Operators matrix_power and matrix_log with their backward passes: functions of the eigenvalues of (B, C, C) matrices.

The backward pass gets the eigenvalues to which the function was applied: small ones are zero already and, for the
logarithm, eps is added.
"""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_floating, check_positive, check_shape

from ..library import declare
from . import decomposition


def _outputs(cov: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate result, eigenvalues (B, C) and eigenvectors (B, C, C)."""
    b, c, _ = cov.shape
    dtype = accumulation_dtype(cov.dtype)
    return cov.new_empty(b, c, c), cov.new_empty(b, c, dtype=dtype), cov.new_empty(b, c, c, dtype=dtype)


def _power_fake(cov: Tensor, alpha: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(cov)


def _log_fake(cov: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(cov)


def _check_power(cov: Tensor, alpha: float) -> None:
    check_floating("cov", cov)
    check_positive("alpha", alpha)


def _check_log(cov: Tensor, eps: float) -> None:
    check_floating("cov", cov)
    check_positive("eps", eps)


def _power_backward_fake(
    grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, alpha: float, backend: str
) -> Tensor:
    return cov.new_empty(cov.shape)


def _log_backward_fake(
    grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, eps: float, backend: str
) -> Tensor:
    return cov.new_empty(cov.shape)


def _check_backward(grad: Tensor, cov: Tensor, eigenvalues: Tensor, eigenvectors: Tensor) -> None:
    b, c, _ = cov.shape
    check_shape("grad", grad, (b, c, c))
    check_shape("eigenvalues", eigenvalues, (b, c))
    check_shape("eigenvectors", eigenvectors, (b, c, c))


matrix_power, matrix_power_backward = declare(
    "matrix_power",
    fake=_power_fake,
    check=_check_power,
    backward_fake=_power_backward_fake,
    check_backward=_check_backward,
    reference=reference.matrix_power,
    decomposition=decomposition.matrix_power,
    in_onnx=False,
)
matrix_log, matrix_log_backward = declare(
    "matrix_log",
    fake=_log_fake,
    check=_check_log,
    backward_fake=_log_backward_fake,
    check_backward=_check_backward,
    reference=reference.matrix_log,
    decomposition=decomposition.matrix_log,
    in_onnx=False,
)
