"""DropCov: channels gated and dropped before their covariance, with the probability found and used on the device."""

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
    """DropCov pooling: the covariance of the channels, in training with channels gated and dropped adaptively.

    In training (Wang et al., "DropCov: A Simple yet Effective Method for Improving Deep Architectures", NeurIPS 2022,
    and its published code), with mu and Sigma the mean and the population covariance of the C channels,

        w = softmax over channels of a convolution of mu along the channels;    g = 1 + w
        s = g * (Sigma g);    r = batch mean of cos(w, s);    p = clamp(1 - (10 / log2 C) r, 0, 1)
        m = 1 / (1 - p) for a channel that is kept, 0 for one that is dropped, each with probability p
        out = diag(m g) Sigma diag(m g)

    No gradient goes through p. In evaluation the result is Sigma, without gate or mask.

    There is one covariance, and p stays on the device: no step waits for it, so that a CUDA graph can hold the whole.

    Args:
        x: features, (B, C, *spatial) or, with ``channel_dim=-1``, tokens (B, N, C); float16, bfloat16, float32 or
            float64, any strides. Never changed.
        gate_weight: kernel of the convolution along the channels, (1, 1, k) with k odd, zero padding and no bias;
            float16, bfloat16, float32 or float64. It gets a gradient in training and is not used in evaluation.
        training: whether to gate and drop.
        generator: what the mask is drawn from; on the device of ``x``. ``None`` is torch's default, which
            :func:`torch.manual_seed` seeds and which alone :func:`torch.compile` can trace. Not used in evaluation.
        mask: (B, C), bool, true for the channels that are kept, instead of a mask that is drawn. p is found, and kept
            channels are multiplied by 1 / (1 - p), all the same. Not used in evaluation.
        channel_dim: where the channels are; not 0.
        output: "triu" for the row-major upper triangle, diagonal included, or "full" for the symmetric matrix.
        precision: of the covariance, as for :func:`fused_gcp`. Gate and p are computed in float32 (float64 for
            float64), whatever torch's matrix products are allowed.
        backend: of the covariance, as for :func:`fused_gcp`; "reference" takes all of :mod:`gcp_kernels.reference`.

    Returns:
        (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``; zeros where p = 1. A constant sample, or one of one position,
        gives zeros, and counts as cos = 0.

        r is a mean over the batch, as published, so in training the samples of a batch are not independent: NaN or
        infinity in one sample makes p, and with it every sample, NaN. Under data parallelism the batch is that of one
        process, and p differs between processes. An empty batch gives an empty result.

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
        # Not torch.rand, which compilers cannot trace with a generator for sizes that are not fixed.
        mask = torch.empty_like(weight, requires_grad=False).uniform_(generator=generator) >= p
    if takes_reference(backend):
        cov = run_reference(reference.dropcov, features, gate_weight, mask)
        return reference.triu_vec(cov) if triu else cov
    # At p = 1 nothing is kept, and 1 / (1 - p) is not a number to multiply zeros by. NaN must stay NaN.
    kept = mask * (1 / (1 - p)).masked_fill(p == 1, 0)
    # Gate and mask go into the covariance as its scale: no second copy of the features, and no matrix but the triangle
    # that is returned. One full covariance, which would give s as a product with it, scaled element by element takes
    # longer; forward and backward on one and on two CPU cores, in units of this (python -m benchmarks.dropcov):
    # (16, 256, 14x14) 1.4, 1.3; (64, 256, 7x7) 2.3, 2.7; (16, 128, 7x7) 1.7, 1.3; (4, 64, 7x7) 1.1, 1.0; and only where
    # positions outnumber channels by far less, (8, 256, 28x28) 0.9, 0.8; and it keeps full matrices for backward.
    return covariance.covariance_pool(features, kept * (1 + weight), triu, precision, backend)[0]


def channel_weight(features: Tensor, gate_weight: Tensor) -> Tensor:
    """w, the gate less 1, of features (B, C, M): shape (B, C), float32 at least, with gradient."""
    dtype = accumulation_dtype(features.dtype)
    size = gate_weight.shape[-1]
    # A sum and a division, because the gradient of a mean is written out for every position before it is added.
    means = features.sum(dim=-1, dtype=dtype) / features.shape[-1]
    # The convolution is written as a sum: cuDNN would round a float32 one to TF32, which torch allows by default, and
    # need not give the same gradient twice.
    padded = functional.pad(means, (size // 2, size // 2))
    # Not unfold, whose backward pass torch.vmap has to take sample by sample.
    windows = torch.stack([padded[:, i : i + means.shape[1]] for i in range(size)], dim=-1)
    return (windows * gate_weight.to(dtype).view(size)).sum(-1).softmax(-1)


def drop_probability(features: Tensor, weight: Tensor) -> Tensor:
    """p for features (B, C, M) with the :func:`channel_weight` (B, C): a tensor of shape (1,), without gradient.

    Sigma g is (x - mu) ((x - mu)^T g) / M: two products of a matrix and a vector, and no covariance. They are written
    as sums so that they stay float32 where torch is allowed TF32 or bfloat16 in matrix products.
    """
    b, c, _ = features.shape
    features, weight = features.detach(), weight.detach()  # not no_grad, which tangents of forward mode pass through
    # Less the first position before the mean, as the covariance itself: a constant sample is then exactly zero.
    centred = features.to(weight.dtype) - features[..., :1].to(weight.dtype)
    gated = centred.sub_(centred.mean(dim=-1, keepdim=True)) * (1 + weight[..., None])
    # M s / C, whose cosine is that of s. A mean over the channels, so that it is within what the covariance sums.
    row_sums = gated.mul_(gated.mean(dim=1, keepdim=True)).sum(dim=-1)
    # The cosine takes squares, which would vanish or overflow for features that are fine otherwise. Scaled, the sums
    # have an element of size 1 and so a length of at least 1, or they are zero and so is their cosine.
    largest = row_sums.abs().amax(dim=-1, keepdim=True)
    s = row_sums / largest.masked_fill(largest == 0, 1)
    cosine = (weight * s).sum(-1) / (weight.norm(dim=-1) * s.norm(dim=-1).clamp_min(1))
    r = cosine.sum(0, keepdim=True) / max(b, 1)
    return (1 - 10 / math.log2(c) * r).clamp(0, 1)
