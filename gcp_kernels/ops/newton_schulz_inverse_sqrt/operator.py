"""Operators newton_schulz_inverse_sqrt and newton_schulz_inverse_sqrt_backward, of (B, C, C) matrices."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_at_least, check_floating, check_not_negative, check_shape

from ..library import declare
from . import decomposition


def _fake(cov: Tensor, n_iter: int, eps: float, precision: str, backend: str) -> tuple[Tensor, Tensor]:
    """Allocate inverse root and trace (B,)."""
    b, c, _ = cov.shape
    return cov.new_empty(b, c, c), cov.new_empty(b, dtype=accumulation_dtype(cov.dtype))


def _check(cov: Tensor, n_iter: int, eps: float) -> None:
    check_floating("cov", cov)
    check_at_least("n_iter", n_iter, 1)
    check_not_negative("eps", eps)


def _backward_fake(
    grad: Tensor, cov: Tensor, trace: Tensor, n_iter: int, eps: float, precision: str, backend: str
) -> Tensor:
    return cov.new_empty(cov.shape)


def _check_backward(grad: Tensor, cov: Tensor, trace: Tensor) -> None:
    b, c, _ = cov.shape
    check_shape("grad", grad, (b, c, c))
    check_shape("trace", trace, (b,))


newton_schulz_inverse_sqrt, newton_schulz_inverse_sqrt_backward = declare(
    "newton_schulz_inverse_sqrt",
    fake=_fake,
    check=_check,
    backward_fake=_backward_fake,
    check_backward=_check_backward,
    reference=reference.newton_schulz_inverse_sqrt,
    decomposition=decomposition.newton_schulz_inverse_sqrt,
)
