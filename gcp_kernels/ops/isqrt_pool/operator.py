"""Operators isqrt_pool and isqrt_pool_backward: iSQRT-COV pooling of (B, C, M) features."""

from torch import Tensor

from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_at_least, check_floating, check_shape

from ..library import declare
from ..shapes import empty_gradient, empty_iterates, keeps_iterates, pooled_shape
from ..torch_device.side import iterated_size
from . import decomposition


def _fake(
    x: Tensor, n_iter: int, triu: bool, keep_iterates: bool, precision: str, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate pooled features, centre (B, C), trace (B,), and iterates, none if they are not kept."""
    b, c, m = x.shape
    dtype = accumulation_dtype(x.dtype)
    keep = keeps_iterates(x, keep_iterates, backend)
    side = iterated_size(c, m) if keep else c
    return (
        x.new_empty(pooled_shape(b, c, triu)),
        x.new_empty(b, c, dtype=dtype),
        x.new_empty(b, dtype=dtype),
        empty_iterates(x, side, n_iter, keep),
    )


def _check(x: Tensor, n_iter: int) -> None:
    check_floating("x", x)
    check_at_least("n_iter", n_iter, 1)


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    centre: Tensor,
    trace: Tensor,
    iterates: Tensor,
    n_iter: int,
    triu: bool,
    precision: str,
    backend: str,
) -> Tensor:
    return empty_gradient(x)


def _check_backward(grad: Tensor, x: Tensor, iterates: Tensor, n_iter: int, triu: bool) -> None:
    b, c, m = x.shape
    side = iterated_size(c, m)
    check_shape("grad", grad, pooled_shape(b, c, triu))
    check_shape("iterates", iterates, (b, 0, c, c), (b, 2 * n_iter, side, side))


isqrt_pool, isqrt_pool_backward = declare(
    "isqrt_pool",
    fake=_fake,
    check=_check,
    backward_fake=_backward_fake,
    check_backward=_check_backward,
    # The reference would differentiate matrices of the channels: 18 times as slow at 256 channels and 49 positions.
    reference=decomposition.isqrt_pool_to_differentiate,
    decomposition=decomposition.isqrt_pool,
)
