"""The reduction of channels in front of the pooling, as published networks have it and name it."""

import torch
from torch import Tensor, nn

from ..validation import check_features


def reduction_block(
    in_channels: int, dim: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> nn.Sequential:
    """1x1 convolution without bias, batch normalisation, ReLU; as ``conv_dr_block`` published checkpoints fit it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, dim, kernel_size=1, bias=False, device=device, dtype=dtype),
        nn.BatchNorm2d(dim, device=device, dtype=dtype),
        nn.ReLU(inplace=True),
    )


def reset_reduction(block: nn.Sequential) -> None:
    """Draw the weights as published (He et al., fan-out) and reset the batch normalisation."""
    for module in block:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def check_layer_input(x: Tensor, in_channels: int, channel_dim: int) -> None:
    """Raise unless ``x`` is a batch of features with ``in_channels`` channels in ``channel_dim``."""
    check_features(x, channel_dim)
    channels = x.shape[channel_dim]
    if channels != in_channels:
        hint = "; for tokens (B, N, C) give channel_dim=-1" if x.shape[-1] == in_channels else ""
        raise ValueError(
            f"the input must have {in_channels} channels in dimension {channel_dim}, "
            f"got {channels} in shape {tuple(x.shape)}{hint}"
        )


def reduce_channels(block: nn.Sequential | None, x: Tensor, channel_dim: int) -> tuple[Tensor, int]:
    """Features after the reduction, if there is one, and the dimension in which their channels then are."""
    if block is None:
        return x, channel_dim
    x = x.movedim(channel_dim, 1)
    return block(x if x.dim() == 4 else x.flatten(2).unsqueeze(-1)), 1
