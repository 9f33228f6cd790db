"""preconditioner_view: the gradient that covariance pooling sends back, compared with that of average pooling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import functional
from ..eigenvalues import eigh
from ..ops.torch_device.products import matmul_precision
from ..precision import accumulation_dtype
from ..validation import check_choice, check_features, check_floating, check_has_values, check_module
from .landscape import check_callable, check_gradients_exist, check_loss
from .state import modules_behind, preserved


@dataclass(frozen=True, eq=False)
class FeatureGradient:
    """The gradient of one loss with respect to the features, in numbers for each sample.

    With g the gradient of a sample as a matrix (C, M), M positions, gbar its mean over the positions, and s_i its
    singular values:

    Attributes:
        gradient: g, (B, C, M), float32 at least.
        norm: ||g||_F, (B,).
        common_share: M ||gbar||^2 / ||g||_F^2, (B,): the share of the gradient's energy that is the same at all
            positions. 1 for average pooling; 0 for covariance pooling, whose gradient sums to zero over them.
        effective_rank: (sum s_i^2)^2 / sum s_i^4, (B,): the participation ratio of the squared singular values, 1 for
            average pooling, at most min(C, M).
        spectrum: ||u_i^T g||^2 / ||g||_F^2, (B, C): shares of the energy along the eigenvectors u_i of the features'
            covariance, in the order of ``PreconditionerView.eigenvalues``. They sum to 1.
    """

    gradient: Tensor
    norm: Tensor
    common_share: Tensor
    effective_rank: Tensor
    spectrum: Tensor


@dataclass(frozen=True, eq=False)
class PreconditionerView:
    """What :func:`preconditioner_view` found; tensors on the device of the features.

    Attributes:
        eigenvalues: of the covariance of each sample's features, (B, C), descending.
        gradients: :class:`FeatureGradient` by the name of the loss.
    """

    eigenvalues: Tensor
    gradients: dict[str, FeatureGradient]

    def cosine(self, one: str, other: str) -> Tensor:
        """Return the cosine between the gradients of two losses for each sample, (B,); 0 where one of them is zero.

        Raises:
            ValueError: there is no loss of that name.
        """
        check_choice("one", one, tuple(self.gradients))
        check_choice("other", other, tuple(self.gradients))
        a, b = (self.gradients[name] for name in (one, other))
        units = [_ratio(view.gradient, view.norm[:, None, None]) for view in (a, b)]
        return (units[0] * units[1]).sum((1, 2))


def preconditioner_view(
    features: Tensor,
    losses: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    channel_dim: int = 1,
    model: nn.Module | None = None,
) -> PreconditionerView:
    """Compare the gradients that several losses, one for each way of pooling, send back to the same features.

    Average pooling gives every position the same gradient, gbar, a matrix of rank one. Covariance pooling gives

        dL/dx = (G + G^T)(x - mu) / M,    G = dL/dSigma

    the centred features multiplied by a matrix of second-order statistics: for normalised pooling G itself depends on
    the spectrum of Sigma, which is how Wang et al. ("What Deep CNNs Benefit from Global Covariance Pooling", CVPR 2020;
    "Towards a Deeper Understanding of Global Covariance Pooling", TPAMI 2023) come to read it as a preconditioner.

    Every loss is called once, from the same buffers and random state, and these are put back
    (:func:`gcp_kernels.analysis.preserved`), the buffers of losses that are modules or methods of modules and of
    ``model``; the random state always. ``.grad`` of parameters is not touched.

    Args:
        features: x, (B, C, *spatial), what is pooled, or with the channels in ``channel_dim``; any floating-point
            dtype. Not changed.
        losses: by name, from features like x through pool and classifier to a loss of one element; a sum over the
            samples, or a mean, which scales the norms by 1/B.
        channel_dim: the dimension of the channels, not 0; -1 for tokens (B, N, C).
        model: what losses that are functions call, to be left as it was.

    Returns:
        A :class:`PreconditionerView`. Shares, rank and cosine of a gradient that is zero are 0.

    Raises:
        TypeError: ``features`` is no floating-point tensor, ``losses`` no mapping to callables, a loss no tensor,
            ``channel_dim`` no int, ``model`` no module.
        ValueError: ``features`` has no channel or position or no such ``channel_dim``, or fewer than three
            dimensions; there is no loss, or one has several elements or does not depend on the features; features, or
            their covariance in the dtype of the sums, that are not finite.
        RuntimeError: called under ``torch.inference_mode()``.

    Example:
        >>> import torch
        >>> from gcp_kernels import covariance_pool
        >>> from gcp_kernels.analysis import preconditioner_view
        >>> view = preconditioner_view(
        ...     torch.randn(2, 8, 7, 7, dtype=torch.float64),
        ...     {"avg": lambda x: x.mean((2, 3)).square().sum(), "gcp": lambda x: covariance_pool(x).square().sum()},
        ... )
        >>> [[round(abs(share), 6) for share in g.common_share.tolist()] for g in view.gradients.values()]
        [[1.0, 1.0], [0.0, 0.0]]
        >>> view.cosine("avg", "gcp").abs().max() < 1e-6
        tensor(True)
    """
    check_gradients_exist()
    check_floating("features", features)
    check_has_values("features", features)
    check_features(features, channel_dim)
    if not isinstance(losses, Mapping):
        raise TypeError(f"losses must be a mapping from names to callables, got {type(losses).__name__}")
    if model is not None:
        check_module("model", model)
    if not losses:
        raise ValueError("losses must name at least one loss, got none")
    for name, loss in losses.items():
        check_callable(f"losses[{name!r}]", loss)
    x = features.detach().to(accumulation_dtype(features.dtype))
    cov = functional.covariance_pool(x, channel_dim=channel_dim, precision="high")
    if not bool(cov.isfinite().all()):
        raise ValueError("features must be finite, and so must their covariance; some sample's is not")
    eigenvalues, vectors = eigh(cov)
    eigenvalues, vectors = eigenvalues.flip(-1), vectors.flip(-1)
    gradients = {}
    with preserved(*modules_behind(*losses.values()), *(() if model is None else (model,))) as snapshot:
        for name, loss in losses.items():
            snapshot.restore()
            gradients[name] = _described(_gradient(features, name, loss, channel_dim), vectors)
    return PreconditionerView(eigenvalues, gradients)


def _gradient(features: Tensor, name: str, loss: Callable[[Tensor], Tensor], channel_dim: int) -> Tensor:
    with torch.enable_grad():
        leaf = features.detach().requires_grad_()
        # Not the leaf itself: the loss may begin with an operation in place.
        value = check_loss(loss(leaf.clone()))
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ValueError(f"the loss {name!r} does not depend on the features")
    return gradient.movedim(channel_dim, 1).flatten(2).to(accumulation_dtype(features.dtype))


def _described(gradient: Tensor, vectors: Tensor) -> FeatureGradient:
    """Describe ``gradient`` (B, C, M) by numbers; ``vectors`` (B, C, C) has the eigenvectors in its columns."""
    # Scaled twice, to largest element 1 and to norm 1: neither squares of a small gradient nor their squares vanish.
    largest = gradient.abs().amax((1, 2))
    scaled = _ratio(gradient, largest[:, None, None])
    scaled_norm = torch.linalg.vector_norm(scaled, dim=(1, 2))
    unit = _ratio(scaled, scaled_norm[:, None, None])
    with matmul_precision(gradient.device, gradient.dtype, "high"):
        gram, along_eigenvectors = unit @ unit.mT, vectors.mT @ unit
    return FeatureGradient(
        gradient=gradient,
        norm=largest * scaled_norm,
        common_share=gradient.shape[-1] * unit.mean(-1).square().sum(-1),
        effective_rank=_ratio(torch.ones_like(largest), gram.square().sum((1, 2))),
        spectrum=along_eigenvectors.square().sum(-1),
    )


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, and 0 where the denominator is 0."""
    return torch.where(denominator == 0, 0, numerator / denominator)
