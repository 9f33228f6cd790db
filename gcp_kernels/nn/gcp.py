"""GCP: reduction of the channels, and their covariance with any of the published normalisations."""

import torch
from torch import Tensor

from .normalization import NORMALIZATIONS, PUBLISHED_ITERATIONS, options_of, pool_and_normalize
from .reduction import ReducedPooling


class GCP(ReducedPooling):
    """Reduction to ``dim`` channels and iSQRT-COV pooling, the head of published iSQRT-COV networks.

    The reduction is a 1x1 convolution without bias, batch normalisation and ReLU, named ``conv_dr_block`` as in the
    published code, so that its checkpoints load (Li et al., CVPR 2018). The pooled vector goes into a linear
    classifier with :attr:`out_features` inputs.

    ``normalization`` names another function of the covariance than the Newton-Schulz square root. None of them has
    parameters, so a checkpoint fits all of them:

    - ``"isqrt"``: :func:`gcp_kernels.fused_gcp`, ``n_iter`` Newton-Schulz iterations.
    - ``"none"``: :func:`gcp_kernels.covariance_pool` alone.
    - ``"power"``: :func:`gcp_kernels.matrix_power`, exact MPN-COV, eigenvalues to the power ``alpha``.
    - ``"log"``: :func:`gcp_kernels.matrix_log`, the logarithm of the eigenvalues plus ``eps``.
    - ``"elementwise"``: :func:`gcp_kernels.elementwise_power` of the pooled vector, signed roots and L2 norm 1; for
      "full" output, of all D * D elements.

    For fewer positions than 0.8 times the channels, "power" and "log" decompose matrices of the order of the positions
    instead of the covariance. The result is the same.

    Args:
        in_channels: channels of the input.
        dim: channels after the reduction, or ``None`` for no reduction.
        n_iter: Newton-Schulz iterations in all, at least 1; of "isqrt". The published 5 are not the exact root: see
            :func:`gcp_kernels.newton_schulz_sqrt`.
        normalization: "isqrt", "none", "power", "log" or "elementwise".
        alpha: of "power", above 0; ``None`` for 0.5.
        eps: of "log", above 0, in the unit of the covariance; ``None`` for 1e-3.
        channel_dim: where the channels of the input are; 1 for feature maps, -1 for tokens.
        output: "triu" or "full", as in :func:`gcp_kernels.fused_gcp`.
        precision: as in :func:`gcp_kernels.fused_gcp`; "power" and "log" are always computed as "high". "power", "log"
            and "elementwise" convert features of half precision to float32 first, and their result back.
        backend: as in :func:`gcp_kernels.fused_gcp`. One asked for by name has to serve pooling and normalisation.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        - Input: (B, in_channels, *spatial), or (B, N, in_channels) with ``channel_dim=-1``.
        - Output: (B, D(D+1)/2) with D = ``dim`` (``in_channels`` without reduction), or (B, D, D) for "full".

    Attributes:
        out_features: elements of one pooled sample, D(D+1)/2 or D * D.

    Raises:
        TypeError, ValueError: at construction, for a count below 1, an unknown option, or one that belongs to another
            normalisation; at call, for an input that is no dense floating-point tensor of a fitting shape,
            not of the dtype and device of the reduction (convert either; autocast converts all but float64), or in
            training has one position, whose covariance is zero with zero gradient.

    Example:
        >>> import torch
        >>> from gcp_kernels.nn import GCP
        >>> pool = GCP(512, dim=128)
        >>> pool(torch.randn(2, 512, 14, 14)).shape
        torch.Size([2, 8256])
        >>> pool.out_features
        8256
        >>> GCP(512, dim=128, normalization="power")(torch.randn(2, 512, 14, 14)).shape
        torch.Size([2, 8256])
    """

    def __init__(
        self,
        in_channels: int,
        dim: int | None = 256,
        n_iter: int = PUBLISHED_ITERATIONS,
        *,
        normalization: str = "isqrt",
        alpha: float | None = None,
        eps: float | None = None,
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
            channel_dim=channel_dim,
            output=output,
            precision=precision,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        for name, value in options_of(NORMALIZATIONS, normalization, n_iter=n_iter, alpha=alpha, eps=eps).items():
            setattr(self, name, value)
        self.normalization = normalization
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of features, see the class."""
        x, channel_dim = self.reduced(x)
        return pool_and_normalize(
            x,
            self.normalization,
            self._options(),
            channel_dim=channel_dim,
            output=self.output,
            precision=self.precision,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the layer: shapes, and every option that is not the default."""
        parts = [] if self.normalization == "isqrt" else [f"normalization={self.normalization!r}"]
        return self.describe(*parts, *(f"{name}={value}" for name, value in self._options().items()))

    def _options(self) -> dict[str, float]:
        """Return the option of the normalisation, by name, as the layer has it now."""
        option = NORMALIZATIONS[self.normalization].option
        return {} if option is None else {option.name: getattr(self, option.name)}
