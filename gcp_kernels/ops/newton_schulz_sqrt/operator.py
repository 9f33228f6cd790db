"""Operators newton_schulz_sqrt and newton_schulz_sqrt_backward: Newton-Schulz square root of (B, C, C) matrices."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_at_least, check_floating, check_shape

from ..library import declare
from ..shapes import empty_iterates, keeps_iterates
from . import decomposition


def _fake(cov: Tensor, n_iter: int, keep_iterates: bool, precision: str, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate root, trace (B,), and iterates, none if they are not kept."""
    b, c, _ = cov.shape
    return (
        cov.new_empty(b, c, c),
        cov.new_empty(b, dtype=accumulation_dtype(cov.dtype)),
        empty_iterates(cov, c, n_iter, keeps_iterates(cov, keep_iterates, backend)),
    )


def _check(cov: Tensor, n_iter: int) -> None:
    check_floating("cov", cov)
    check_at_least("n_iter", n_iter, 1)


def _backward_fake(
    grad: Tensor, cov: Tensor, trace: Tensor, iterates: Tensor, n_iter: int, precision: str, backend: str
) -> Tensor:
    return cov.new_empty(cov.shape)


def _check_backward(grad: Tensor, cov: Tensor, iterates: Tensor, n_iter: int) -> None:
    b, c, _ = cov.shape
    check_shape("grad", grad, (b, c, c))
    check_shape("iterates", iterates, (b, 0, c, c), (b, 2 * n_iter, c, c))


newton_schulz_sqrt, newton_schulz_sqrt_backward = declare(
    "newton_schulz_sqrt",
    fake=_fake,
    check=_check,
    backward_fake=_backward_fake,
    check_backward=_check_backward,
    reference=reference.newton_schulz_sqrt,
    decomposition=decomposition.newton_schulz_sqrt,
)
