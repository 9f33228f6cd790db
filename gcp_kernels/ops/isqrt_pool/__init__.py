"""iSQRT-COV pooling: the covariance of features, its Newton-Schulz square root, its upper triangle."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_at_least, check_choice, check_features

from ..arguments import OUTPUTS, channels_first, check_arithmetic, run_reference, takes_reference, wants_gradient
from ..override import overridable
from . import operator


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
    """Pool features by iSQRT-COV: the covariance of the channels, its Newton-Schulz square root, its upper triangle.

    With mu and Sigma the mean and the population covariance over all M positions and t the trace of Sigma, the result
    is sqrt(t) Y_N, where Y_N is the N-th Newton-Schulz iterate for Sigma / t (Li et al., CVPR 2018, equations 2 to 5).
    As in every published network, N = 5 iterations are not the exact root: see :func:`newton_schulz_sqrt`.

    Where M is clearly smaller than C (below 0.85 C in the torch backend, in Triton where its tiles are smaller by more
    than a tenth), these two backends iterate on (M, M) matrices of the positions instead, which give the same result in
    less time (docs/mathematics.md).

    Args:
        x: features, (B, C, *spatial) or, with ``channel_dim=-1``, tokens (B, N, C); float16, bfloat16, float32 or
            float64, any strides. Never changed.
        n_iter: N, at least 1.
        channel_dim: which dimension has the channels; not 0.
        output: "triu" for the row-major upper triangle, diagonal included (the order of published checkpoints), or
            "full" for the symmetric matrix.
        precision: "fast" (float16 or TF32 products, relative error about 7e-4), "high" (float32-class products, below
            5e-6 for up to 6 iterations, 5 on the CUDA backend), or ``None``: "high" for float32 unless torch is allowed
            TF32, "fast" for half precision. Statistics and sums are always float32; float64 is always float64
            throughout. More iterations keep that error where the iteration is on the positions and these are
            independent, or where M is well above C. Elsewhere, and on the CUDA backend wherever M is not above C, each
            more than doubles what rounding left in a null space: give float64.
        backend: "torch", "triton" or "cuda" to force one; "reference" for plain autograd of
            :mod:`gcp_kernels.reference`; "auto" or ``None`` for one that can run this, on a GPU the fastest by
            the times that ``python -m gcp_kernels info`` prints.

    Returns:
        (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``. A sample whose features are constant, or that has one
        position, gives zeros with zero gradient. NaN or infinity stays within its sample. Squared deviations, and their
        sum over the sample, must be in the range of float32 (float64 for float64): above that range the sample gives
        NaN, below it digits are lost until it counts as constant.

    Raises:
        TypeError: ``x`` is not a tensor of one of the dtypes; ``n_iter`` or ``channel_dim`` is not an int.
        ValueError: a shape without channels or positions, or an option that is not listed here.
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
    return operator.isqrt_pool(features, n_iter, triu, wants_gradient(x), precision, backend)[0]
