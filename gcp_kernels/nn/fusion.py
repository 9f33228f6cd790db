"""TokenFusionHead: the classifier of a vision transformer, which sees the class token and the pooled tokens."""

import torch
from torch import Tensor, nn

from ..ops.override import overridable
from ..validation import check_at_least, check_choice, check_fits_parameters, check_module, check_parameter_options
from ..wrappers import unwrapped
from .cross_covariance import check_tokens
from .leaf import Leaf

FUSIONS = ("sum", "concat")


class TokenFusionHead(Leaf):
    """Classify a sequence of tokens by its class token and by a second-order pooling of the others, fused.

    - ``"sum"``: the class token and the pooled vector have a linear classifier each, and their logits are added.
    - ``"concat"``: both are concatenated, class token first, in front of one linear classifier.

    The two are the same function of their weights, but for a second bias vector; they differ in how these are drawn at
    the start, and thus in training (Xie et al., "So-ViT: Mind Visual Tokens for Vision Transformer", 2021).

    Args:
        dim: channels of a token.
        pool: a module that pools tokens (B, N, dim) to (B, ``pool.out_features``), such as
            :class:`MultiHeadCrossCovariance`, or ``GCP(dim, channel_dim=-1)``.
        num_classes: logits.
        fusion: "sum" or "concat".
        num_prefix_tokens: tokens in front that are not pooled, the first of which is the class token; more than 1 for
            models with a distillation token or registers.
        device: of the parameters of the classifiers.
        dtype: of the parameters of the classifiers.

    Shape:
        - Input: (B, P + N, dim) with P = ``num_prefix_tokens`` and N >= 1, after the last normalisation of the
          transformer.
        - Output: logits (B, num_classes).

    Attributes:
        pool: as given.
        class_classifier: the classifier of the class token, ``None`` with "concat".
        pooled_classifier: the classifier of the pooled vector, ``None`` with "concat".
        classifier: the classifier of both, ``None`` with "sum".

    Raises:
        TypeError, ValueError: at construction, for a count below 1, an unknown fusion, a ``pool`` without
            ``out_features``, or one of this package that pools no tokens or gives matrices; at call, for an input that
            is no floating-point tensor (B, P + N, dim), N >= 1, or not of the dtype and device of the classifiers; for
            a ``pool`` that does not give (B, ``out_features``); and what ``pool`` raises, those of this package for
            N = 1 in training.

    Example:
        >>> import torch
        >>> from gcp_kernels.nn import MultiHeadCrossCovariance, TokenFusionHead
        >>> pool = MultiHeadCrossCovariance(384, num_heads=6, head_dim=14)
        >>> head = TokenFusionHead(384, pool, num_classes=1000)
        >>> head(torch.randn(2, 1 + 196, 384)).shape
        torch.Size([2, 1000])
    """

    def __init__(
        self,
        dim: int,
        pool: nn.Module,
        num_classes: int,
        fusion: str = "sum",
        *,
        num_prefix_tokens: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_at_least("dim", dim, 1)
        check_parameter_options(device, dtype)
        check_module("pool", pool)
        layer = unwrapped(pool)
        pooled = getattr(layer, "out_features", None)
        if not isinstance(pooled, int) or isinstance(pooled, bool):
            raise TypeError(f"pool must be a module with an int out_features, got {type(pool).__name__}")
        check_at_least("pool.out_features", pooled, 1)
        # What the layers here say of themselves: whether they pool tokens, and to a vector.
        if getattr(layer, "channel_dim", -1) not in (-1, 2):
            raise ValueError(
                f"pool must take tokens (B, N, dim): give it channel_dim=-1, got a {type(layer).__name__} with "
                f"channel_dim={layer.channel_dim}"
            )
        if getattr(layer, "output", "triu") != "triu":
            raise ValueError(f"pool must give a vector: output='triu', got output={layer.output!r}")
        check_at_least("num_classes", num_classes, 1)
        check_choice("fusion", fusion, FUSIONS)
        check_at_least("num_prefix_tokens", num_prefix_tokens, 1)
        self.dim = dim
        self.num_classes = num_classes
        self.fusion = fusion
        self.num_prefix_tokens = num_prefix_tokens
        self.pool = pool
        self.pooled_features = pooled
        self.class_classifier: nn.Linear | None = None
        self.pooled_classifier: nn.Linear | None = None
        self.classifier: nn.Linear | None = None
        if fusion == "sum":
            self.class_classifier = nn.Linear(dim, num_classes, device=device, dtype=dtype)
            self.pooled_classifier = nn.Linear(pooled, num_classes, device=device, dtype=dtype)
        else:
            self.classifier = nn.Linear(dim + pooled, num_classes, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the classifiers, and the pooling if it has parameters to draw, as at construction."""
        for module in (self.pool, self.class_classifier, self.pooled_classifier, self.classifier):
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of a batch of token sequences, see the class."""
        tokens = check_tokens(tokens, self.dim, least=self.num_prefix_tokens + 1)
        first = self.classifier if self.class_classifier is None else self.class_classifier
        assert first is not None
        check_fits_parameters("tokens", tokens, first)
        pooled = self.pool(tokens[:, self.num_prefix_tokens :])
        class_token, pooled = tokens[:, 0], check_pooled(pooled, tokens, self.pooled_features, type(self.pool).__name__)
        if self.class_classifier is not None and self.pooled_classifier is not None:
            return self.class_classifier(class_token) + self.pooled_classifier(pooled)
        assert self.classifier is not None
        return self.classifier(torch.cat([class_token.to(pooled.dtype), pooled], dim=-1))

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the head besides its modules."""
        prefix = f", num_prefix_tokens={self.num_prefix_tokens}" if self.num_prefix_tokens != 1 else ""
        return f"{self.dim}, num_classes={self.num_classes}, fusion={self.fusion!r}{prefix}"


@overridable
def check_pooled(pooled: object, tokens: Tensor, features: int, pool: str) -> Tensor:
    """Return ``pooled`` if it is (B, features), else raise; ``pool`` names the class that gave it."""
    if not isinstance(pooled, Tensor) or pooled.shape != (tokens.shape[0], features):
        given = tuple(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
        raise ValueError(
            f"pool must pool tokens (B, N, {tokens.shape[2]}) to (B, {features}), as its out_features say, "
            f"got {given} from a {pool} for B = {tokens.shape[0]}"
        )
    return pooled
