"""newton_schulz_sqrt in operators of torch."""

from torch import Tensor

from gcp_kernels.precision import accumulation_dtype

from ..standard_operators import divide_by_trace, newton_schulz, root


def newton_schulz_sqrt(cov: Tensor, n_iter: int) -> Tensor:
    """Approximate the square root of (B, C, C) matrices, in their dtype."""
    widened = cov.to(accumulation_dtype(cov.dtype))
    a, trace = divide_by_trace((widened + widened.mT) / 2)
    return (newton_schulz(a, n_iter, of_root=True) * root(trace)).to(cov.dtype)
