"""DropCov: channels are gated and dropped before their covariance; the drop probability never leaves the device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from gcp_kernels import reference
from gcp_kernels.precision import accumulation_dtype
from gcp_kernels.validation import check_choice, check_features, check_gate_weight, check_generator, check_mask

from ..arguments import OUTPUTS, channels_first, check_arithmetic, run_reference, takes_reference
from ..covariance_pool import covariance_pool
from ..covariance_pool import operator as covariance
from ..override import overridable


@overridable
def dropcov(
    x: Tensor,
    gate_weight: Tensor,
    *,
    training: bool,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
    channel_dim: int = 1,
    output: str = "triu",
    precision: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Pool features by DropCov: the covariance of the channels; in training, channels are gated and dropped first.

    In training (Wang et al., "DropCov: A Simple yet Effective Method for Improving Deep Architectures", NeurIPS 2022,
    and its published code), with mu and Sigma the mean and the population covariance of the C channels,

        w = softmax over channels of a convolution of mu along the channels;    g = 1 + w
        s = g * (Sigma g);    r = batch mean of cos(w, s);    p = clamp(1 - (10 / log2 C) r, 0, 1)
        m = 1 / (1 - p) for a channel that is kept, 0 for one that is dropped, each with probability p
        out = diag(m g) Sigma diag(m g)

    No gradient goes through p. In evaluation the result is Sigma, without gate or mask.

    Only one covariance is computed, and p stays on the device. No step waits for it, so a CUDA graph can hold them all.

    Args:
        x: features, (B, C, *spatial) or, with ``channel_dim=-1``, tokens (B, N, C); float16, bfloat16, float32 or
            float64, any strides. Never changed.
        gate_weight: kernel of the convolution along the channels, (1, 1, k) with k odd, zero padding and no bias;
            float16, bfloat16, float32 or float64. It gets a gradient in training and is not used in evaluation.
        training: whether to gate and drop.
        generator: draws the mask; on the device of ``x``. ``None`` is torch's default, which
            :func:`torch.manual_seed` seeds. It is the only one that :func:`torch.compile` can trace. Not used in
            evaluation.
        mask: (B, C), bool, true for the channels that are kept, instead of a mask that is drawn. p is found all the
            same, and kept channels are multiplied by 1 / (1 - p). Not used in evaluation.
        channel_dim: which dimension has the channels; not 0.
        output: "triu" for the row-major upper triangle, diagonal included, or "full" for the symmetric matrix.
        precision: of the covariance, as for :func:`fused_gcp`. Gate and p are computed in float32 (float64 for
            float64), whatever torch's matrix products are allowed.
        backend: of the covariance, as for :func:`fused_gcp`; "reference" takes all of :mod:`gcp_kernels.reference`.

    Returns:
        (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``; zeros where p = 1. A sample that is constant, or has one
        position, gives zeros, and its cosine counts as 0.

        As published, r is a mean over the batch, so in training the samples of a batch are not independent: NaN or
        infinity in one sample makes p NaN, and so every sample. Under data parallelism each process has its own batch
        and its own p. An empty batch gives an empty result.

    Raises:
        TypeError: ``x`` or ``gate_weight`` is not a tensor of one of the dtypes, ``mask`` not one of bools,
            ``generator`` not a ``torch.Generator``, ``channel_dim`` not an int, ``training`` not a bool.
        ValueError: a shape without channels or positions; a single channel in training, for which log2 C is zero; a
            ``gate_weight`` or ``mask`` of another shape; one of them, or ``generator``, on another device than ``x``;
            both a ``mask`` and a ``generator``; an option outside what is listed here.
        RuntimeError: the backend asked for cannot run this.

    Example:
        >>> import torch, gcp_kernels
        >>> x, gate_weight = torch.relu(torch.randn(4, 64, 7, 7)), torch.zeros(1, 1, 3)
        >>> gcp_kernels.dropcov(x, gate_weight, training=True).shape
        torch.Size([4, 2080])
        >>> evaluated = gcp_kernels.dropcov(x, gate_weight, training=False)
        >>> torch.equal(evaluated, gcp_kernels.covariance_pool(x, output="triu"))
        True
    """
    check_features(x, channel_dim)
    check_gate_weight(gate_weight, x)
    check_choice("output", output, OUTPUTS)
    if not isinstance(training, bool):
        raise TypeError(f"training must be a bool, got {training!r} of type {type(training).__name__}")
    if not training:
        return covariance_pool(x, channel_dim=channel_dim, output=output, precision=precision, backend=backend)

    precision, backend = check_arithmetic(precision, backend)
    features, triu = channels_first(x, channel_dim), output == "triu"
    if features.shape[1] < 2:
        raise ValueError(f"DropCov needs at least 2 channels in training, got 1 in shape {tuple(x.shape)}")
    check_mask(mask, features)
    check_generator(generator, x.device)
    if mask is not None and generator is not None:
        raise ValueError("a mask that is given is not drawn; give either mask or generator")

    weight = channel_weight(features, gate_weight)
    p = drop_probability(features, weight)
    if mask is None:
        # torch.rand would be shorter, but compilers cannot trace it with a generator for sizes that are not fixed.
        mask = torch.empty_like(weight, requires_grad=False).uniform_(generator=generator) >= p
    if takes_reference(backend):
        cov = run_reference(reference.dropcov, features, gate_weight, mask)
        return reference.triu_vec(cov) if triu else cov
    # At p = 1 nothing is kept, and 1 / (1 - p) is infinite: times zero it would be NaN. A p of NaN must stay NaN.
    kept = mask * (1 / (1 - p)).masked_fill(p == 1, 0)
    # Gate and mask go into the covariance as its scale: no second copy of the features, and no matrix but the triangle
    # that is returned. The other way is one full covariance, from which s follows by a product, scaled element by
    # element. It takes longer, and keeps full matrices for the backward pass. Its time for forward and backward over
    # that of this way, on one and on two CPU cores (python -m benchmarks dropcov): (16, 256, 14x14) 1.4, 1.3;
    # (64, 256, 7x7) 2.3, 2.7; (16, 128, 7x7) 1.7, 1.3; (4, 64, 7x7) 1.1, 1.0; and less only where positions outnumber
    # channels by far, (8, 256, 28x28) 0.9, 0.8.
    return covariance.covariance_pool(features, kept * (1 + weight), triu, precision, backend)[0]


def channel_weight(features: Tensor, gate_weight: Tensor) -> Tensor:
    """Compute w, the gate less 1, of features (B, C, M): shape (B, C), float32 at least, with gradient."""
    dtype = accumulation_dtype(features.dtype)
    size = gate_weight.shape[-1]
    # A sum and a division instead of a mean: torch writes out the gradient of a mean for every position.
    means = features.sum(dim=-1, dtype=dtype) / features.shape[-1]
    # The convolution is written as a sum. cuDNN would round a float32 one to TF32, which torch allows by default, and
    # might give another gradient in a second run.
    padded = functional.pad(means, (size // 2, size // 2))
    # Slices instead of unfold, whose backward pass torch.vmap has to run sample by sample.
    windows = torch.stack([padded[:, i : i + means.shape[1]] for i in range(size)], dim=-1)
    return (windows * gate_weight.to(dtype).view(size)).sum(-1).softmax(-1)


def drop_probability(features: Tensor, weight: Tensor) -> Tensor:
    """Compute p for features (B, C, M) with the :func:`channel_weight` (B, C): a tensor (1,), without gradient.

    Sigma g is (x - mu) ((x - mu)^T g) / M: two products of a matrix and a vector, and no covariance. They are written
    as sums so that they stay float32 where torch is allowed TF32 or bfloat16 in matrix products.
    """
    b, c, _ = features.shape
    # detach and not no_grad, because tangents of forward mode pass through no_grad.
    features, weight = features.detach(), weight.detach()
    # The first position is subtracted before the mean, as in the covariance: a constant sample is then exactly zero.
    centred = features.to(weight.dtype) - features[..., :1].to(weight.dtype)
    gated = centred.sub_(centred.mean(dim=-1, keepdim=True)) * (1 + weight[..., None])
    # This is M s / C, which has the cosine of s. The mean over the channels keeps it in the range of the covariance.
    row_sums = gated.mul_(gated.mean(dim=1, keepdim=True)).sum(dim=-1)
    # The cosine takes squares, which could vanish or overflow for features that are otherwise fine. Divided by the
    # largest, the sums have an element of size 1, so a length of at least 1. Or they are zero, and so is their cosine.
    largest = row_sums.abs().amax(dim=-1, keepdim=True)
    s = row_sums / largest.masked_fill(largest == 0, 1)
    cosine = (weight * s).sum(-1) / (weight.norm(dim=-1) * s.norm(dim=-1).clamp_min(1))
    r = cosine.sum(0, keepdim=True) / max(b, 1)
    return (1 - 10 / math.log2(c) * r).clamp(0, 1)
