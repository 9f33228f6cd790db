"""The poolings that networks are built, trained and compared with: names, layers, labels and published dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .dropcov import DropCov
from .gcp import GCP

# What the papers, and the commands here, compare every other pooling with.
BASELINE = "avg"


class AveragePool(nn.Module):
    """Mean over the positions: (B, C, H, W) -> (B, C).

    Args:
        in_channels: C.
        dim: ``None``; other poolings reduce the channels first, and this one has no need to.

    Attributes:
        out_features: elements of one pooled sample, C.
    """

    def __init__(self, in_channels: int, dim: None = None) -> None:
        super().__init__()
        self.out_features = in_channels

    def forward(self, features: Tensor) -> Tensor:
        """Pool a batch of features."""
        return features.mean((-2, -1))


@dataclass(frozen=True)
class Pooling:
    """A pooling as users, networks, plots and reports know it.

    Attributes:
        name: what users write, ``pool="gcp"``.
        label: what plots and reports write.
        layer: called with the channels of the input, and ``dim``, those after the reduction or ``None``.
        network: the ``pool`` of :mod:`gcp_kernels.models` in whose network this one is trained.
        options: arguments of the layer, beyond its defaults, that make it this pooling.
        published_dim: channels after the reduction in the networks of its paper; ``None`` for a pooling that has no
            networks of its own.
    """

    name: str
    label: str
    layer: type[nn.Module]
    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published_dim: int | None = None

    def build(self, in_channels: int) -> Any:
        """Make the layer without a reduction of the channels; it has ``out_features``."""
        return self.layer(in_channels, dim=None, **self.options)


# In the order, and so in the colours, of the plots.
POOLINGS = {
    pooling.name: pooling
    for pooling in (
        Pooling(BASELINE, "average pooling", AveragePool, BASELINE),
        Pooling("gcp", "GCP", GCP, "gcp", published_dim=256),
        Pooling("dropcov", "DropCov", DropCov, "dropcov", published_dim=128),
        Pooling("power", "GCP, exact square root", GCP, "gcp", {"normalization": "power"}),
        Pooling("elementwise", "GCP, element-wise root", GCP, "gcp", {"normalization": "elementwise"}),
        Pooling("none", "plain covariance", GCP, "gcp", {"normalization": "none"}),
    )
}

# The poolings of published networks, which models of torchvision and timm can be given.
PUBLISHED_POOLINGS = {name: pooling for name, pooling in POOLINGS.items() if pooling.published_dim is not None}
