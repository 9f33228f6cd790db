"""The reduction of channels in front of the pooling, as published networks have it and name it."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..ops.arguments import OUTPUTS, unsaved
from ..ops.backends import NAMES as BACKEND_NAMES
from ..ops.override import overridable
from ..ops.shapes import triangle_size
from ..precision import PRECISIONS
from ..validation import (
    check_at_least,
    check_choice,
    check_features,
    check_fits_parameters,
    check_integer,
    check_parameter_options,
    check_positions_in_training,
)
from .leaf import Leaf


def reduction_block(
    in_channels: int, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """Make 1x1 convolution without bias, batch normalisation, ReLU: ``conv_dr_block`` of published checkpoints."""
    return nn.Sequential(
        nn.Conv2d(in_channels, dim, kernel_size=1, bias=False, device=device, dtype=dtype),
        nn.BatchNorm2d(dim, device=device, dtype=dtype),
        nn.ReLU(inplace=True),
    )


def reset_reduction(modules: Iterable[nn.Module]) -> None:
    """Draw the weights as published (He et al., fan-out) and reset the batch normalisation."""
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


# Functions of their own, so that a trace of the layer itself, which goes through forward, has them as nodes.


@overridable
def checked(x: Tensor, in_channels: int, channel_dim: int, training: bool) -> Tensor:
    """Return ``x`` if it is a batch of features with ``in_channels`` channels, and in training two positions."""
    check_features(x, channel_dim)
    channels = x.shape[channel_dim]
    if channels != in_channels:
        hint = "; for tokens (B, N, C) give channel_dim=-1" if x.shape[-1] == in_channels else ""
        raise ValueError(
            f"the input must have {in_channels} channels in dimension {channel_dim}, "
            f"got {channels} in shape {tuple(x.shape)}{hint}"
        )
    if training:
        check_positions_in_training(x, channel_dim)
    return x


@overridable
def feature_map(x: Tensor, channel_dim: int) -> Tensor:
    """Return features as (B, C, H, W), with W = 1 unless there are two spatial dimensions."""
    return x if channel_dim == 1 and x.dim() == 4 else unsaved(_feature_map, x, channel_dim)


def _feature_map(x: Tensor, channel_dim: int) -> Tensor:
    x = x.movedim(channel_dim, 1)
    return x if x.dim() == 4 else x.flatten(2).unsqueeze(-1)


class ReducedPooling(Leaf):
    """What the pooling layers share: a reduction to ``dim`` channels in front, and the options of the pooling.

    A subclass calls ``reset_parameters``, its own or this one, when all its parameters are there.
    """

    # Options that ``print`` shows where they are not the default.
    _DEFAULTS: ClassVar[dict[str, object]] = {"channel_dim": 1, "output": "triu", "precision": None, "backend": None}

    def __init__(
        self,
        in_channels: int,
        dim: int | None,
        *,
        least_channels: int = 1,
        channel_dim: int,
        output: str,
        precision: str | None,
        backend: str | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_at_least("in_channels", in_channels, least_channels if dim is None else 1)
        if dim is not None:
            check_at_least("dim", dim, least_channels)
        check_parameter_options(device, dtype)
        check_integer("channel_dim", channel_dim)
        if channel_dim == 0:
            raise ValueError("channel_dim must not be 0, which is the batch")
        check_choice("output", output, OUTPUTS)
        check_choice("precision", precision, (None, *PRECISIONS))
        check_choice("backend", backend, (None, *BACKEND_NAMES))
        self.in_channels = in_channels
        self.dim = dim
        self.channel_dim = channel_dim
        self.output = output
        self.precision = precision
        self.backend = backend
        channels = in_channels if dim is None else dim
        self.out_features = triangle_size(channels) if output == "triu" else channels * channels
        self.conv_dr_block = None if dim is None else reduction_block(in_channels, dim, device, dtype)

    def reset_parameters(self) -> None:
        """Draw the reduction's weights as published (He et al., fan-out) and reset its batch normalisation."""
        if self.conv_dr_block is not None:
            reset_reduction(self.conv_dr_block)

    def reduced(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the features after the reduction, if there is one, and the dimension in which their channels then are.

        Raises:
            TypeError, ValueError: ``x`` is no batch of features with ``in_channels`` channels in ``channel_dim``, or
                not of the dtype, or on the device, of the reduction, or has one position in training.
        """
        x = checked(x, self.in_channels, self.channel_dim, self.training)
        if self.conv_dr_block is None:
            return x, self.channel_dim
        check_fits_parameters("x", x, self.conv_dr_block)
        return self.conv_dr_block(feature_map(x, self.channel_dim)), 1

    def describe(self, *parts: str) -> str:
        """Return the text of ``extra_repr``: shapes, ``parts``, and every option that is not the default."""
        shown = [f"{self.in_channels}, dim={self.dim}", *parts, f"out_features={self.out_features}"]
        for name, default in self._DEFAULTS.items():
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(shown)
