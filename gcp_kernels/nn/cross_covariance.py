"""Multi-head cross-covariance pooling of the tokens of a vision transformer."""

import torch
from torch import Tensor, nn

from ..functional import cross_covariance_pool
from ..ops.override import overridable
from ..precision import accumulation_dtype
from ..validation import (
    check_at_least,
    check_fits_parameters,
    check_floating,
    check_parameter_options,
    check_positions_in_training,
)
from .leaf import Leaf
from .normalization import HEAD_NORMALIZATIONS, options_of


class MultiHeadCrossCovariance(Leaf):
    """Cross-covariance of two projections of the tokens, in several heads, with its singular values normalised.

    One linear map without bias gives q and k of ``head_dim`` channels for each head, h and w in all; a head is
    q^T k / N over the N tokens, q and k centred over them (Xie et al., "So-ViT: Mind Visual Tokens for Vision
    Transformer", 2021). With ``normalization="power"`` each head is then normalised by
    :func:`gcp_kernels.singular_value_power`, whose one power iteration starts from a vector that is learned for each
    head. Between these steps everything is float32 at least.

    Args:
        dim: channels of a token.
        num_heads: h.
        head_dim: w.
        normalization: "power" or "none".
        alpha: the power, above 0 and at most 1; ``None`` for 0.5. Of "power" only.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        - Input: tokens (B, N, dim), without the class token.
        - Output: (B, h * w * w), the heads one after another, each row by row.

    Attributes:
        qk: the linear map, ``nn.Linear(dim, 2 * h * w, bias=False)``. Its outputs are q of all heads, then k of all.
        start: the start vectors (h, w), or ``None`` without normalisation.
        out_features: elements of one pooled sample, h * w * w.

    Raises:
        TypeError, ValueError: at construction, for a count below 1 or an option out of range; at call, for an input
            that is no floating-point tensor (B, N, dim) with at least one token, in training two (less its mean, one
            token is zero, and so are output and gradient), or not of the dtype and device of the parameters (convert
            either; autocast converts all but float64).

    Example:
        >>> import torch
        >>> from gcp_kernels.nn import MultiHeadCrossCovariance
        >>> pool = MultiHeadCrossCovariance(384, num_heads=6, head_dim=24)
        >>> pool(torch.randn(2, 196, 384)).shape
        torch.Size([2, 3456])
        >>> pool.out_features
        3456
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        normalization: str = "power",
        *,
        alpha: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_at_least("dim", dim, 1)
        check_parameter_options(device, dtype)
        check_at_least("num_heads", num_heads, 1)
        check_at_least("head_dim", head_dim, 1)
        options = options_of(HEAD_NORMALIZATIONS, normalization, alpha=alpha)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.normalization = normalization
        self.alpha = options["alpha"]
        self.out_features = num_heads * head_dim * head_dim
        self.qk = nn.Linear(dim, 2 * num_heads * head_dim, bias=False, device=device, dtype=dtype)
        self.start: nn.Parameter | None = None
        if HEAD_NORMALIZATIONS[normalization].normalize is not None:
            self.start = nn.Parameter(torch.empty(num_heads, head_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the linear map as ``nn.Linear`` does and the start vectors from a normal distribution."""
        self.qk.reset_parameters()
        if self.start is not None:
            nn.init.normal_(self.start)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool a batch of tokens, see the class."""
        tokens = check_tokens(tokens, self.dim, training=self.training)
        check_fits_parameters("tokens", tokens, self.qk)
        projected = self.qk(tokens)
        return _pool_heads(projected, self.start, self.num_heads, self.head_dim, self.normalization, self._options())

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the layer besides its linear map."""
        option = "".join(f", {name}={value}" for name, value in self._options().items())
        return (
            f"{self.dim}, num_heads={self.num_heads}, head_dim={self.head_dim}, "
            f"normalization={self.normalization!r}{option}, out_features={self.out_features}"
        )

    def _options(self) -> dict[str, float]:
        """Return the option of the normalisation, by name, as the layer has it now."""
        option = HEAD_NORMALIZATIONS[self.normalization].option
        return {} if option is None else {option.name: getattr(self, option.name)}


# Functions of their own, so that a trace of a layer itself, which goes through forward, has them as nodes.


@overridable
def _pool_heads(
    qk: Tensor,
    start: Tensor | None,
    num_heads: int,
    head_dim: int,
    normalization: str,
    options: dict[str, float],
) -> Tensor:
    """Pool q and k of all heads, (B, N, 2 * h * w), to (B, h * w * w)."""
    heads = qk.unflatten(-1, (2, num_heads, head_dim)).permute(2, 0, 3, 1, 4)  # (2, B, h, N, w)
    q, k = heads.to(accumulation_dtype(qk.dtype)).unbind(0)
    cov = cross_covariance_pool(q, k)
    normalize = HEAD_NORMALIZATIONS[normalization].normalize
    if normalize is not None:
        cov = normalize(cov, start, **options)
    return cov.flatten(1).to(qk.dtype)


@overridable
def check_tokens(tokens: Tensor, dim: int, least: int = 1, *, training: bool = False) -> Tensor:
    """Return ``tokens`` if it is (B, N, dim), floating point, with ``least`` tokens or more, and in training two."""
    check_floating("tokens", tokens)
    if tokens.dim() != 3 or tokens.shape[2] != dim or tokens.shape[1] < least:
        count = "one token" if least == 1 else f"{least} tokens"
        raise ValueError(f"tokens must have shape (B, N, {dim}) with at least {count}, got {tuple(tokens.shape)}")
    if training:
        check_positions_in_training(tokens, -1)
    return tokens
