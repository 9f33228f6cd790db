"""Cross-covariance of two sequences of tokens, and the normalisation of its singular values."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_floating, check_positive

from ..arguments import run_reference
from ..override import overridable


@overridable
def cross_covariance_pool(q: Tensor, k: Tensor) -> Tensor:
    """Compute the cross-covariance q^T k / N over N tokens, q and k each less its mean over the tokens.

    This is the second-order pooling of vision transformers (Xie et al., "So-ViT: Mind Visual Tokens for Vision
    Transformer", 2021), of one head or of several at once. Sums are float32 at least. Products of float32 follow the
    setting of torch (``torch.set_float32_matmul_precision``). If a backward pass runs inside an autocast block, which
    PyTorch advises against, its products follow autocast.

    Args:
        q: (B, N, wq), or (B, h, N, wq) for h heads; float16, bfloat16, float32 or float64, any strides.
        k: (B, N, wk) or (B, h, N, wk), in the dtype of ``q`` and on its device.

    Returns:
        (B, wq, wk) or (B, h, wq, wk), in the dtype of ``q``; zeros with zero gradient for one token.

    Raises:
        TypeError: ``q`` or ``k`` is not a floating-point tensor, or they differ in dtype.
        ValueError: a shape other than these, no token, no channel, or tensors on different devices.

    Example:
        >>> import torch, gcp_kernels
        >>> q, k = torch.randn(2, 6, 196, 24), torch.randn(2, 6, 196, 14)
        >>> gcp_kernels.cross_covariance_pool(q, k).shape
        torch.Size([2, 6, 24, 14])
    """
    for name, tokens in (("q", q), ("k", k)):
        check_floating(name, tokens)
        if tokens.dim() not in (3, 4) or 0 in tokens.shape[1:]:
            raise ValueError(
                f"{name} must have shape (B, N, w) or (B, h, N, w) with at least one token and one channel, "
                f"got {tuple(tokens.shape)}"
            )
    if q.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            f"q and k must have the same batch, heads and tokens, got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if k.dtype != q.dtype:
        raise TypeError(f"k must have the dtype of q, {q.dtype}, got {k.dtype}")
    _check_device("k", k, "q", q)
    return run_reference(reference.cross_covariance_pool, q, k)


@overridable
def singular_value_power(m: Tensor, start: Tensor, alpha: float = 0.5) -> Tensor:
    """Raise the largest singular value to a power and divide the others accordingly, after one power iteration.

    Let v0 be the start vector. Then s = |m^T u|, with u = m v0 / |m v0| and v = m^T u / s, approximates the largest
    singular value, and u and v its vectors. The result is (Xie et al., So-ViT, 2021)

        s^alpha u v^T + (m - s u v^T) / (s^(1 - alpha) + 1e-5).

    The gradient is the exact one of this formula. It exists for the start vector too, which a layer learns, because u,
    s and v are functions of both arguments. Computed in float32 at least. Where m v0 = 0, as for a zero matrix, the
    result is zeros, and so is the gradient.

    Args:
        m: (..., wq, wk), float16, bfloat16, float32 or float64, any strides.
        start: v0, (..., wk) with leading dimensions that broadcast to those of ``m``, such as (wk,), or (h, wk) for
            heads (B, h, wq, wk). Its length has no effect. It is on the device of ``m``, and has any of the dtypes; its
            gradient has the same.
        alpha: the power, above 0 and at most 1.

    Returns:
        (..., wq, wk), in the dtype of ``m``. NaN or infinity stays within its matrix.

    Raises:
        TypeError: ``m`` or ``start`` is not a floating-point tensor; ``alpha`` is no number.
        ValueError: the shapes do not fit; ``alpha`` is not above 0 and at most 1; tensors on different devices.

    Example:
        >>> import torch, gcp_kernels
        >>> m = torch.diag(torch.tensor([16.0, 4.0]))
        >>> gcp_kernels.singular_value_power(m, torch.tensor([1.0, 0.0]))
        tensor([[4.0000, 0.0000],
                [0.0000, 1.0000]])
    """
    check_floating("m", m)
    if m.dim() < 2 or 0 in m.shape[-2:]:
        raise ValueError(f"m must have shape (..., wq, wk) with wq, wk >= 1, got {tuple(m.shape)}")
    check_floating("start", start)
    vectors = (*m.shape[:-2], m.shape[-1])
    if start.dim() == 0 or not _expands(tuple(start.shape), vectors):
        raise ValueError(f"start must have shape {vectors} or one that broadcasts to it, got {tuple(start.shape)}")
    _check_device("start", start, "m", m)
    check_positive("alpha", alpha, most=1)
    return run_reference(reference.singular_value_power, m, start, alpha)


def _expands(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Say whether a tensor of ``shape``, whose last size must be that of ``target``, can be expanded to ``target``."""
    return (
        len(shape) <= len(target)
        and shape[-1] == target[-1]
        and all(size in (1, wanted) for size, wanted in zip(shape[::-1], target[::-1], strict=False))
    )


def _check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, got {tensor.device}")
