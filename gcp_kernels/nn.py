"""Global covariance pooling as layers, in the conventions of ``torch.nn``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .backends import NAMES as BACKEND_NAMES
from .functional import OUTPUTS, fused_gcp
from .precision import PRECISIONS
from .shapes import triangle_size
from .validation import check_at_least, check_choice, check_features, check_integer


class GCP(nn.Module):
    """Reduction to ``dim`` channels and iSQRT-COV pooling, the head of published iSQRT-COV networks.

    The reduction is a 1x1 convolution without bias, batch normalisation and ReLU, named ``conv_dr_block`` as in the
    published code, so that its checkpoints load (Li et al., CVPR 2018). The pooled vector goes into a linear
    classifier with :attr:`out_features` inputs.

    Args:
        in_channels: channels of the input.
        dim: channels after the reduction, or ``None`` for no reduction.
        n_iter: Newton-Schulz iterations in all, at least 1.
        channel_dim: where the channels of the input are; 1 for feature maps, -1 for tokens.
        output: "triu" or "full", as in :func:`gcp_kernels.fused_gcp`.
        precision: as in :func:`gcp_kernels.fused_gcp`.
        backend: as in :func:`gcp_kernels.fused_gcp`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        - Input: (B, in_channels, *spatial), or (B, N, in_channels) with ``channel_dim=-1``.
        - Output: (B, D(D+1)/2) with D = ``dim`` (``in_channels`` without reduction), or (B, D, D) for "full".

    Attributes:
        out_features: elements of one pooled sample, D(D+1)/2 or D * D.

    Raises:
        TypeError, ValueError: at construction, for a count below 1 or an unknown option; at call, for an input that is
            no dense floating-point tensor of a fitting shape.
        RuntimeError: at call, from the convolution, for an input whose dtype is not that of the parameters (convert
            either, or use autocast).

    Example:
        >>> import torch
        >>> from gcp_kernels.nn import GCP
        >>> pool = GCP(512, dim=128)
        >>> pool(torch.randn(2, 512, 14, 14)).shape
        torch.Size([2, 8256])
        >>> pool.out_features
        8256
    """

    def __init__(
        self,
        in_channels: int,
        dim: int | None = 256,
        n_iter: int = 5,
        *,
        channel_dim: int = 1,
        output: str = "triu",
        precision: str | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_at_least("in_channels", in_channels, 1)
        if dim is not None:
            check_at_least("dim", dim, 1)
        check_at_least("n_iter", n_iter, 1)
        check_integer("channel_dim", channel_dim)
        if channel_dim == 0:
            raise ValueError("channel_dim must not be 0, which is the batch")
        check_choice("output", output, OUTPUTS)
        check_choice("precision", precision, (None, *PRECISIONS))
        check_choice("backend", backend, (None, *BACKEND_NAMES))
        self.in_channels = in_channels
        self.dim = dim
        self.n_iter = n_iter
        self.channel_dim = channel_dim
        self.output = output
        self.precision = precision
        self.backend = backend
        channels = in_channels if dim is None else dim
        self.out_features = triangle_size(channels) if output == "triu" else channels * channels
        self.conv_dr_block: nn.Sequential | None = None
        if dim is not None:
            self.conv_dr_block = nn.Sequential(
                nn.Conv2d(in_channels, dim, kernel_size=1, bias=False, device=device, dtype=dtype),
                nn.BatchNorm2d(dim, device=device, dtype=dtype),
                nn.ReLU(inplace=True),
            )
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the reduction's weights as published (He et al., fan-out) and reset its batch normalisation."""
        if self.conv_dr_block is not None:
            for module in self.conv_dr_block:
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(module, nn.BatchNorm2d):
                    module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of features, see the class."""
        check_features(x, self.channel_dim)
        channels = x.shape[self.channel_dim]
        if channels != self.in_channels:
            hint = "; for tokens (B, N, C) give channel_dim=-1" if x.shape[-1] == self.in_channels else ""
            raise ValueError(
                f"the input must have {self.in_channels} channels in dimension {self.channel_dim}, "
                f"got {channels} in shape {tuple(x.shape)}{hint}"
            )
        channel_dim = self.channel_dim
        if self.conv_dr_block is not None:
            x = x.movedim(channel_dim, 1)
            x = self.conv_dr_block(x if x.dim() == 4 else x.flatten(2).unsqueeze(-1))
            channel_dim = 1
        return fused_gcp(
            x,
            n_iter=self.n_iter,
            channel_dim=channel_dim,
            output=self.output,
            precision=self.precision,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer: shapes, and every option that is not the default."""
        parts = [f"{self.in_channels}, dim={self.dim}, n_iter={self.n_iter}, out_features={self.out_features}"]
        defaults = {"channel_dim": 1, "output": "triu", "precision": None, "backend": None}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(parts)


_REDUCTION_NAMES = {"layer_reduce": "conv_dr_block.0", "layer_reduce_bn": "conv_dr_block.1"}


def rename_reduction_keys(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the reduction of a checkpoint from ``layer_reduce*`` to ``conv_dr_block.*``, as :class:`GCP` has it.

    Published iSQRT-COV checkpoints name the reduction either way. ``layer_reduce.weight`` becomes
    ``conv_dr_block.0.weight``, ``layer_reduce_bn.running_mean`` becomes ``conv_dr_block.1.running_mean`` and so on;
    what stands before the name (``module.``, say) stays. All other keys are kept, as is the order.

    Args:
        state_dict: as given by ``torch.load`` or ``Module.state_dict``; not changed.

    Raises:
        ValueError: two keys would get one name.

    Example:
        >>> from gcp_kernels.nn import rename_reduction_keys
        >>> rename_reduction_keys({"layer_reduce.weight": 1, "fc.bias": 2})
        {'conv_dr_block.0.weight': 1, 'fc.bias': 2}
    """
    renamed: dict[str, Any] = {}
    for key, value in state_dict.items():
        new_key = ".".join(_REDUCTION_NAMES.get(part, part) for part in key.split("."))
        if new_key in renamed:
            raise ValueError(f"the checkpoint has two entries for {new_key!r}, one of them named {key!r}")
        renamed[new_key] = value
    return renamed
