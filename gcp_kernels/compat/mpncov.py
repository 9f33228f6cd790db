"""The file ``MPNCOV.py`` that many repositories carry, by the same names, arguments and shapes: change the import.

It goes back to fast-MPN-COV (Li et al., CVPR 2018), from where second-order channel attention (SAN, Dai et al., CVPR
2019) and others took it. The functions here are those of this package. docs/migration.md says what is not the same.
"""

from typing import SupportsIndex

import torch
from torch import Tensor

from ..functional import covariance_pool, fused_gcp, newton_schulz_sqrt, triu_vec
from ..nn.leaf import Leaf
from ..nn.reduction import checked, reduction_block, reset_reduction
from ..ops.override import overridable
from ..ops.shapes import triangle_order, triangle_size
from ..validation import check_at_least, check_choice, check_features, check_floating, check_positions_in_training

__all__ = [
    "MPNCOV",
    "Covpool",
    "CovpoolLayer",
    "Sqrtm",
    "SqrtmLayer",
    "Triuvec",
    "TriuvecLayer",
    "from_lower_order",
]

# The order of the elements of a triangle: of today's copies, and of early ones.
ORDERS = ("upper", "lower")


def CovpoolLayer(var: Tensor) -> Tensor:
    """Compute the population covariance of the channels, without a matrix of the positions.

    Args:
        var: features (B, C, H, W), or (B, C, *spatial).

    Returns:
        (B, C, C), in the dtype of ``var``.

    Raises:
        TypeError, ValueError: as :func:`gcp_kernels.covariance_pool`, which this is.

    Example:
        >>> import torch
        >>> from gcp_kernels.compat.mpncov import CovpoolLayer
        >>> CovpoolLayer(torch.randn(2, 8, 7, 7)).shape
        torch.Size([2, 8, 8])
    """
    return covariance_pool(var)


def SqrtmLayer(var: Tensor, iterN: int) -> Tensor:
    """Approximate the square root of covariances by ``iterN`` Newton-Schulz iterations (CVPR 2018, equations 2 to 5).

    Args:
        var: symmetric positive semi-definite matrices (B, C, C). Of others the symmetric part is used.
        iterN: iterations in all, at least 1.

    Returns:
        (B, C, C), in the dtype of ``var``. A matrix of zeros gives zeros, with zero gradient.

    Raises:
        TypeError, ValueError: ``iterN`` is no int of at least 1, or ``var`` is not as
            :func:`gcp_kernels.newton_schulz_sqrt` wants it.

    Example:
        >>> import torch
        >>> from gcp_kernels.compat.mpncov import SqrtmLayer
        >>> SqrtmLayer(torch.eye(3).expand(2, 3, 3), 5).shape
        torch.Size([2, 3, 3])
    """
    return newton_schulz_sqrt(var, n_iter=_count("iterN", iterN))


def TriuvecLayer(var: Tensor, order: str = "upper") -> Tensor:
    """Read a triangle of matrices as vectors.

    Args:
        var: matrices (B, C, C).
        order: "upper" for the upper triangle, row by row, as copies have it today; "lower" for the lower triangle, row
            by row, as early copies have it. Of a symmetric matrix that is the upper one, column by column.
            Weights that were trained on one are of no use with the other, see :func:`from_lower_order`.

    Returns:
        (B, C(C+1)/2, 1) for "upper", (B, C(C+1)/2) for "lower", the shapes that the copies give; in the dtype of
        ``var``.

    Raises:
        TypeError, ValueError: ``var`` is not as :func:`gcp_kernels.triu_vec` wants it; an unknown order.

    Example:
        >>> import torch
        >>> from gcp_kernels.compat.mpncov import TriuvecLayer
        >>> TriuvecLayer(torch.eye(3).expand(2, 3, 3)).shape
        torch.Size([2, 6, 1])
    """
    check_choice("order", order, ORDERS)
    return triu_vec(var).unsqueeze(-1) if order == "upper" else _in_lower_order(triu_vec(var.mT))


def from_lower_order(weight: Tensor) -> Tensor:
    """Reorder the weights of a classifier that was trained on the "lower" order of the triangle for the "upper" one.

    Convert before a model is sharded. A checkpoint is then of use with everything here but ``order="lower"``, with
    :class:`gcp_kernels.nn.GCP` too: ``state["fc.weight"] = from_lower_order(state["fc.weight"])``.

    Args:
        weight: (..., C(C+1)/2), such as the weight of a linear layer, or pooled vectors; any dtype.

    Returns:
        The same shape, dtype and device.

    Raises:
        TypeError: ``weight`` is not a floating-point tensor.
        ValueError: the last dimension is not C(C+1)/2 for any C.

    Example:
        >>> import torch
        >>> from gcp_kernels.compat.mpncov import TriuvecLayer, from_lower_order
        >>> m = torch.tensor([[[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]]])
        >>> from_lower_order(TriuvecLayer(m, order="lower"))
        tensor([[1., 2., 3., 4., 5., 6.]])
    """
    check_floating("weight", weight)
    if weight.dim() == 0:
        raise ValueError("weight must have shape (..., C(C+1)/2), got a tensor without dimensions")
    places = _places_of_lower(triangle_order(weight.shape[-1]), weight.device)
    return weight.index_select(-1, places.argsort())


class MPNCOV(Leaf):
    """Reduction of the channels, covariance, its Newton-Schulz square root, and its triangle as a vector.

    All steps are one fused call (:func:`gcp_kernels.fused_gcp`), unless a subclass replaces ``_cov_pool``, ``_sqrtm``
    or ``_triuvec``: then each is called. Parameters have the names and the initialisation of the copies.

    Args:
        iterNum: iterations in all, at least 1. Published networks give 5, not the 3 of the default.
        is_sqrt: whether to take the root.
        is_vec: whether the result is a vector.
        input_dim: channels of the input.
        dimension_reduction: channels after a 1x1 convolution without bias, batch normalisation and ReLU
            (``conv_dr_block``), or ``None`` for none.
        order: of the vector, as for :func:`TriuvecLayer`.

    Shape:
        - Input: (B, input_dim, H, W).
        - Output: (B, D(D+1)/2, 1) with D = ``dimension_reduction`` or ``input_dim``; (B, D(D+1)/2) for
          ``order="lower"``; (B, D, D) without ``is_vec``.

    Attributes:
        output_dim: elements of one pooled sample, D(D+1)/2 or D * D.

    Raises:
        TypeError, ValueError: at construction, for a count below 1 or an unknown order; at call, for an input that is
            no floating-point (B, C, *spatial) tensor, has not ``input_dim`` channels where they are reduced, or in
            training one position, whose covariance is zero.

    Example:
        >>> import torch
        >>> from gcp_kernels.compat.mpncov import MPNCOV
        >>> pool = MPNCOV(5, input_dim=512, dimension_reduction=64)
        >>> pool(torch.randn(2, 512, 7, 7)).shape, pool.output_dim
        (torch.Size([2, 2080, 1]), 2080)
    """

    def __init__(
        self,
        iterNum: int = 3,
        is_sqrt: bool = True,
        is_vec: bool = True,
        input_dim: int = 2048,
        dimension_reduction: int | None = None,
        *,
        order: str = "upper",
    ) -> None:
        super().__init__()
        iterNum, input_dim = _count("iterNum", iterNum), _count("input_dim", input_dim)
        if dimension_reduction is not None:
            dimension_reduction = _count("dimension_reduction", dimension_reduction)
        check_choice("order", order, ORDERS)
        self.iterNum = iterNum
        self.is_sqrt = is_sqrt
        self.is_vec = is_vec
        self.dr = dimension_reduction
        self.order = order
        self._input_dim = input_dim
        channels = input_dim if dimension_reduction is None else dimension_reduction
        self.output_dim = triangle_size(channels) if is_vec else channels * channels
        if dimension_reduction is not None:
            self.conv_dr_block = reduction_block(input_dim, dimension_reduction)
        self._init_weight()

    def _init_weight(self) -> None:
        reset_reduction(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Pool a batch of features, see the class."""
        if self.dr is not None:
            x = self.conv_dr_block(checked(x, self._input_dim, 1, self.training))
        if any(_replaced(self, step) for step in ("_cov_pool", "_sqrtm", "_triuvec")):
            x = self._cov_pool(x)
            x = self._sqrtm(x) if self.is_sqrt else x
            return self._triuvec(x) if self.is_vec else x
        return _pool(x, self.iterNum if self.is_sqrt else None, self.order if self.is_vec else None, self.training)

    def _cov_pool(self, x: Tensor) -> Tensor:
        return CovpoolLayer(x)

    def _sqrtm(self, x: Tensor) -> Tensor:
        return SqrtmLayer(x, self.iterNum)

    def _triuvec(self, x: Tensor) -> Tensor:
        return TriuvecLayer(x, self.order)

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the layer besides its reduction."""
        return f"iterNum={self.iterNum}, is_sqrt={self.is_sqrt}, is_vec={self.is_vec}, output_dim={self.output_dim}"


class Covpool:
    """The autograd function of the copies: ``Covpool.apply`` is :func:`CovpoolLayer`."""

    apply = staticmethod(CovpoolLayer)


class Sqrtm:
    """The autograd function of the copies: ``Sqrtm.apply`` is :func:`SqrtmLayer`."""

    apply = staticmethod(SqrtmLayer)


class Triuvec:
    """The autograd function of the copies: ``Triuvec.apply`` is :func:`TriuvecLayer`."""

    apply = staticmethod(TriuvecLayer)


def _count(name: str, value: SupportsIndex) -> int:
    """Return a count, which may come from a configuration as an integer of numpy; raise unless it is at least 1."""
    count = value if isinstance(value, bool) or not hasattr(value, "__index__") else value.__index__()
    check_at_least(name, count, 1)  # type: ignore[arg-type]  # which is what the check finds out
    return count  # type: ignore[return-value]


@overridable
def _pool(x: Tensor, n_iter: int | None, order: str | None, training: bool) -> Tensor:
    """Pool features in one call: the root if there are iterations, a vector if there is an order."""
    check_features(x, 1)
    if training:
        check_positions_in_training(x, 1)
    output = "full" if order is None else "triu"
    pooled = covariance_pool(x, output=output) if n_iter is None else fused_gcp(x, n_iter=n_iter, output=output)
    if order is None:
        return pooled
    return pooled.unsqueeze(-1) if order == "upper" else _in_lower_order(pooled)


def _replaced(layer: MPNCOV, step: str) -> bool:
    return step in vars(layer) or getattr(type(layer), step) is not getattr(MPNCOV, step)


def _in_lower_order(vectors: Tensor) -> Tensor:
    """Take the elements of row-major upper triangles (..., C(C+1)/2) column by column."""
    return vectors.index_select(-1, _places_of_lower(triangle_order(vectors.shape[-1]), vectors.device))


def _places_of_lower(c: int, device: torch.device) -> Tensor:
    """Find each element of the row-major lower triangle in the row-major upper one of the transposed matrix."""
    columns, rows = torch.tril_indices(c, c, device=device)
    return rows * c - rows * (rows - 1) // 2 + columns - rows
