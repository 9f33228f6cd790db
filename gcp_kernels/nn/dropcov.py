"""DropCov: reduction of the channels, and covariance pooling that gates and drops channels in training."""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from ..functional import dropcov
from ..validation import check_at_least
from .reduction import ReducedPooling


class DropCov(ReducedPooling):
    """Reduction to ``dim`` channels and DropCov pooling, the head of published DropCov networks.

    In training, channels are gated and dropped, with a probability that adapts to the batch, before their covariance is
    taken; in evaluation it is the plain covariance (Wang et al., NeurIPS 2022; :func:`gcp_kernels.dropcov` has the
    formulas). The pooled vector goes into a linear classifier with :attr:`out_features` inputs.

    The parameters fit published checkpoints: the reduction is named ``conv_dr_block``, to which
    :func:`rename_reduction_keys` brings ``layer_reduce*``, and the gate's convolution ``eca_layer.conv``.

    The drop probability depends on all samples of the batch, and under data parallelism on those of its own process
    only, as published: the gradients of two processes are not those of one with the joined batch. The mask is drawn
    from torch's default generator of the device, which :func:`torch.manual_seed` seeds.

    Args:
        in_channels: channels of the input.
        dim: channels after the reduction, at least 2, or ``None`` for no reduction.
        kernel_size: channels that the gate's convolution sees at once, odd.
        channel_dim: where the channels of the input are; 1 for feature maps, -1 for tokens.
        output: "triu" or "full", as in :func:`gcp_kernels.dropcov`.
        precision: as in :func:`gcp_kernels.dropcov`.
        backend: as in :func:`gcp_kernels.dropcov`.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        - Input: (B, in_channels, *spatial), or (B, N, in_channels) with ``channel_dim=-1``.
        - Output: (B, D(D+1)/2) with D = ``dim`` (``in_channels`` without reduction), or (B, D, D) for "full".

    Attributes:
        out_features: elements of one pooled sample, D(D+1)/2 or D * D.

    Raises:
        TypeError, ValueError: at construction, for fewer than two channels to drop from, an even kernel or an unknown
            option; at call, for an input that is no dense floating-point tensor of a fitting shape,
            not of the dtype and device of the reduction (convert either; autocast converts all but float64), or in
            training has one position, whose covariance is zero with zero gradient.

    Example:
        >>> import torch
        >>> from gcp_kernels.nn import DropCov
        >>> pool = DropCov(512, dim=128)
        >>> pool(torch.randn(2, 512, 14, 14)).shape
        torch.Size([2, 8256])
        >>> pool.out_features
        8256
    """

    def __init__(
        self,
        in_channels: int,
        dim: int | None = 256,
        kernel_size: int = 3,
        *,
        channel_dim: int = 1,
        output: str = "triu",
        precision: str | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            dim,
            least_channels=2,
            channel_dim=channel_dim,
            output=output,
            precision=precision,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        check_at_least("kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.kernel_size = kernel_size
        convolution = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.eca_layer = nn.Sequential(OrderedDict(conv=convolution))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as published (reduction: He et al., fan-out; gate: torch's default), reset statistics."""
        super().reset_parameters()
        self._gate.reset_parameters()

    @property
    def _gate(self) -> nn.Conv1d:
        return cast(nn.Conv1d, self.eca_layer.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of features, see the class."""
        x, channel_dim = self.reduced(x)
        return dropcov(
            x,
            self._gate.weight,
            training=self.training,
            channel_dim=channel_dim,
            output=self.output,
            precision=self.precision,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the layer: shapes, and every option that is not the default."""
        return self.describe(f"kernel_size={self.kernel_size}")
