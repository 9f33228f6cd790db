"""The poolings that are put behind the network, with and without a reduction of its channels."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gcp_kernels.nn.poolings import BASELINE, POOLINGS
from gcp_kernels.nn.reduction import reduction_block, reset_reduction
from gcp_kernels.validation import check_at_least, check_choice


class ReducedAverage(nn.Module):
    """Average pooling behind the reduction that covariance poolings have: what of a gain is the reduction's.

    Args:
        in_channels: C of the input, (B, C, H, W).
        dim: channels after the reduction.

    Attributes:
        out_features: elements of one pooled sample, ``dim``.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv_dr_block = reduction_block(in_channels, dim)
        reset_reduction(self.conv_dr_block)
        self.out_features = dim

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, dim)."""
        pooled: Tensor = self.conv_dr_block(features).mean((-2, -1))
        return pooled


@dataclass(frozen=True, order=True)
class Head:
    """A pooling of :data:`POOLINGS` and the channels that it reduces to; ``None`` for no reduction."""

    pool: str
    dim: int | None = None

    def __post_init__(self) -> None:
        """Raise :class:`ValueError` for an unknown pooling or no channels."""
        check_choice("pool", self.pool, tuple(POOLINGS))
        if self.dim is not None:
            check_at_least("dim", self.dim, 1)

    @property
    def name(self) -> str:
        """What files call it: "gcp-256", "gcp", "avg"."""
        return self.pool if self.dim is None else f"{self.pool}-{self.dim}"

    @property
    def label(self) -> str:
        """What reports call it."""
        label = POOLINGS[self.pool].label
        if self.dim is None:
            return label if self.pool == BASELINE else f"{label}, no reduction"
        return f"{label}, {self.dim} channels"

    def build(self, in_channels: int) -> Any:
        """Make the layer for a feature map of so many channels; it has ``out_features``."""
        if self.pool == BASELINE and self.dim is not None:
            return ReducedAverage(in_channels, self.dim)
        pooling = POOLINGS[self.pool]
        return pooling.layer(in_channels, dim=self.dim, **pooling.options)


AVERAGE = Head(BASELINE)
