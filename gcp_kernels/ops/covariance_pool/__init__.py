"""Covariance pooling of features, with an optional scale for each channel."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_choice, check_features, check_scale

from ..arguments import OUTPUTS, channels_first, check_arithmetic, run_reference, takes_reference
from ..override import overridable
from . import operator


@overridable
def covariance_pool(
    x: Tensor,
    *,
    scale: Tensor | None = None,
    channel_dim: int = 1,
    output: str = "full",
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute the population covariance of the channels over all positions, Sigma = (x - mu)(x - mu)^T / M.

    With a scale s the result is diag(s) Sigma diag(s): element i, j is multiplied by s_i s_j. DropCov (Wang et al.,
    "DropCov: A Simple yet Effective Method for Improving Deep Architectures", NeurIPS 2022) gates and drops channels in
    this way; there s is the gate times the mask.

    Args:
        x: features, as for :func:`fused_gcp`.
        scale: s, (B, C), one number for each channel of each sample, of either sign or zero; float16, bfloat16, float32
            or float64, which need not be the dtype of ``x``; any strides. It gets a gradient too, in its own dtype.
            ``None`` for no scaling.
        channel_dim: which dimension has the channels; not 0.
        output: "full" for the symmetric matrix or "triu" for its row-major upper triangle.
        precision: as for :func:`fused_gcp`.
        backend: as for :func:`fused_gcp`.

    Returns:
        (B, C, C) or (B, C(C+1)/2), in the dtype of ``x``. A sample whose features are constant, or that has one
        position, gives zeros with zero gradient.

    Raises:
        TypeError: as :func:`fused_gcp`; ``scale`` is not a tensor of one of the dtypes.
        ValueError: as :func:`fused_gcp`; ``scale`` is not (B, C), or not on the device of ``x``.
        RuntimeError: as :func:`fused_gcp`.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.covariance_pool(torch.randn(2, 8, 49)).shape
        torch.Size([2, 8, 8])
    """
    check_features(x, channel_dim)
    if scale is not None:
        check_scale(scale, x, channel_dim)
    check_choice("output", output, OUTPUTS)
    precision, backend = check_arithmetic(precision, backend)
    features, triu = channels_first(x, channel_dim), output == "triu"
    if takes_reference(backend):
        cov = run_reference(reference.covariance_pool, features, scale)
        return reference.triu_vec(cov) if triu else cov
    return operator.covariance_pool(features, scale, triu, precision, backend)[0]
