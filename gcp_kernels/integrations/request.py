"""What a user asks of a conversion, and the layers that follow from it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..nn.poolings import PUBLISHED_POOLINGS
from ..validation import check_at_least, check_choice
from .classifiers import CLASS_TOKEN_CHOICES

POOLS = {name: pooling.layer.__name__ for name, pooling in PUBLISHED_POOLINGS.items()}
"""What a pool is called, and the layer of :mod:`gcp_kernels.nn` that it is."""

# Arguments of those layers that follow from the model, and that a user therefore cannot give.
_FROM_THE_MODEL = ("in_channels", "channel_dim", "output", "device", "dtype")


class UnsupportedModelError(TypeError):
    """The model, or an option asked for with it, has no conversion; the message names what has one."""


@dataclass(frozen=True)
class PoolRequest:
    """The checked arguments of :func:`gcp_kernels.integrations.replace_pool`."""

    pool: str
    dim: int | None
    num_classes: int | None
    keep_stride: bool
    class_token: str | None
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raise for what no model can be given."""
        check_choice("pool", self.pool, tuple(POOLS))
        if self.dim is not None:
            check_at_least("dim", self.dim, 1)
        if self.num_classes is not None:
            check_at_least("num_classes", self.num_classes, 0)
        if not isinstance(self.keep_stride, bool):
            raise TypeError(f"keep_stride must be True or False, got {self.keep_stride!r}")
        check_choice("class_token", self.class_token, (None, *CLASS_TOKEN_CHOICES))
        for name in _FROM_THE_MODEL:
            if name in self.options:
                raise TypeError(f"{name} follows from the model and cannot be given, got {self.options[name]!r}")

        known = inspect.signature(PUBLISHED_POOLINGS[self.pool].layer).parameters
        allowed = [name for name in known if name not in (*_FROM_THE_MODEL, "dim")]
        for name in self.options:
            if name not in allowed:
                raise TypeError(f"pool={self.pool!r} has no option {name!r}; it has {', '.join(allowed)}")

    def build_pool(self, in_channels: int, like: Tensor, channel_dim: int = 1) -> Any:
        """Make the pooling layer, which has ``out_features``, on the device and in the dtype of ``like``."""
        return PUBLISHED_POOLINGS[self.pool].layer(
            in_channels, dim=self.dim, channel_dim=channel_dim, device=like.device, dtype=like.dtype, **self.options
        )

    def classes_of(self, classifier: nn.Module) -> int:
        """Return the number of classes asked for, or that of the classifier which the model has."""
        if self.num_classes is not None:
            return self.num_classes
        if not isinstance(classifier, nn.Linear):
            raise ValueError(
                f"num_classes must be given: the classifier of the model is a {type(classifier).__name__}, "
                "not a Linear layer whose outputs could be counted"
            )
        return classifier.out_features

    def require_no_class_token(self, model: nn.Module) -> None:
        """Raise if something was asked for the class token of a model that has none."""
        if self.class_token not in (None, "ignore"):
            raise ValueError(f"class_token={self.class_token!r}: {type(model).__name__} has no class token")

    def require_stride_kept(self, model: nn.Module, reason: str) -> None:
        """Raise if the last stage's stride was to be dropped from a model where that cannot be."""
        if not self.keep_stride:
            raise UnsupportedModelError(f"keep_stride=False is not possible for {type(model).__name__}: {reason}")


def pool_layers() -> tuple[type[nn.Module], ...]:
    """Return the classes of all pooling layers."""
    return tuple(pooling.layer for pooling in PUBLISHED_POOLINGS.values())
