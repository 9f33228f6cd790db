"""filter_normalized_surface: the loss around trained weights, in random directions of the weights' own scale."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from ..precision import accumulation_dtype
from ..validation import check_at_least, check_integer, check_number
from ..wrappers import check_unsharded
from .landscape import check_callable, check_loss, listed
from .state import Snapshot, preserved

Direction = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Surface:
    """What :func:`filter_normalized_surface` found.

    Attributes:
        steps: alpha, along the first direction.
        second_steps: beta, along the second; ``None`` for a line.
        losses: (steps,) for a line or (steps, second_steps), float64 on the CPU.
    """

    steps: tuple[float, ...]
    second_steps: tuple[float, ...] | None
    losses: Tensor


def filter_normalized_surface(
    model: nn.Module,
    loss: Callable[[], Tensor],
    steps: Iterable[float],
    second_steps: Iterable[float] | None = None,
    *,
    seed: int = 0,
) -> Surface:
    """Evaluate the loss around the weights theta, at theta + alpha d + beta e for random filter-normalised d and e.

    Each filter of a direction has the norm of the same filter of the weights, so that a unit of alpha means the same
    for networks whose weights differ in scale: flatness can be compared (Li et al., "Visualizing the Loss Landscape of
    Neural Nets", NeurIPS 2018, section 4). See :func:`filter_normalized_directions`.

    The model is evaluated in the mode in which it is, without gradients. Every point starts from the same buffers and
    random state, one dropout mask for all. Afterwards parameters, buffers and everything else are bit for bit what
    they were, after an exception too (:func:`gcp_kernels.analysis.preserved`).

    Args:
        model: with parameters of any floating-point dtype, on any device.
        loss: the loss as a function of nothing, ``lambda: cross_entropy(model(images), target)``; for a curve of the
            whole training set, its mean over that.
        steps: alpha, finite; -1 to 1 is usual.
        second_steps: beta, for a surface in two directions.
        seed: of the directions, the same on every device. Another network of the same shapes gets the same directions
            but for their scale.

    Returns:
        A :class:`Surface`.

    Raises:
        TypeError: an argument or the loss has the wrong type; the model is sharded.
        ValueError: no step, or one that is not finite; the loss has several elements; the model has no parameter of two
            or more dimensions, which alone are moved.

    Example:
        >>> import torch
        >>> from gcp_kernels.analysis import filter_normalized_surface
        >>> layer = torch.nn.Linear(4, 2)
        >>> line = filter_normalized_surface(layer, lambda: layer.weight.square().sum(), steps=(-1, 0, 1))
        >>> line.losses.shape, bool(line.losses[1] == layer.weight.square().sum())
        (torch.Size([3]), True)
    """
    check_callable("loss", loss)
    alphas = _finite("steps", steps)
    betas = None if second_steps is None else _finite("second_steps", second_steps)
    directions = filter_normalized_directions(model, 1 if betas is None else 2, seed=seed)
    with preserved(model) as snapshot, _moving(model) as move, torch.no_grad():
        losses = [
            _loss_at(loss, snapshot, move, zip(directions, point, strict=True))
            for point in ([(a,) for a in alphas] if betas is None else [(a, b) for a in alphas for b in betas])
        ]
    shape = (len(alphas),) if betas is None else (len(alphas), len(betas))
    return Surface(alphas, betas, torch.stack(losses).cpu().double().reshape(shape))


def filter_normalized_directions(model: nn.Module, count: int, *, seed: int = 0) -> list[Direction]:
    """Draw normal directions in the parameters of ``model``, each filter scaled to the norm of the weights' filter.

    A filter is a slice ``weight[i]``: what makes one output channel of a convolution, or one output of a linear layer.
    Parameters of one dimension (biases, the scale and shift of normalisations) get zero, as in the published code.

    Args:
        model: whose parameters are meant, those that require no gradient too.
        count: how many directions.
        seed: of the normal numbers, the same on every device.

    Returns:
        ``count`` dictionaries from the name of a parameter to a tensor like it, in float32 at least.

    Raises:
        TypeError: an argument has the wrong type; the model is sharded.
        ValueError: ``count`` is below 1; the model has no parameter of two or more dimensions.

    Example:
        >>> import torch
        >>> from gcp_kernels.analysis import filter_normalized_directions
        >>> layer = torch.nn.Linear(4, 2)
        >>> (direction,) = filter_normalized_directions(layer, 1)
        >>> torch.allclose(direction["weight"].norm(dim=1), layer.weight.norm(dim=1))
        True
    """
    check_unsharded(model)
    check_at_least("count", count, 1)
    check_integer("seed", seed)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if not any(parameter.dim() > 1 for parameter in parameters.values()):
        raise ValueError("the model has no parameter of two or more dimensions, which alone have filters")
    generator = torch.Generator().manual_seed(seed)
    return [{name: _filter_normalized(p, generator) for name, p in parameters.items()} for _ in range(count)]


def _filter_normalized(weight: Tensor, generator: torch.Generator) -> Tensor:
    dtype = accumulation_dtype(weight.dtype)
    if weight.dim() < 2:
        return torch.zeros_like(weight, dtype=dtype)
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device, dtype)
    norms, drawn_norms = (torch.linalg.vector_norm(tensor.to(dtype).flatten(1), dim=1) for tensor in (weight, drawn))
    return drawn * (norms / drawn_norms).view(-1, *[1] * (weight.dim() - 1))


Move = Callable[[Iterable[tuple[Direction, float]]], None]


@contextmanager
def _moving(model: nn.Module) -> Iterator[Move]:
    """Yield a function that sets the parameters to theta plus multiples of directions; put theta back at the end."""
    parameters = dict(model.named_parameters())
    saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def move(terms: Iterable[tuple[Direction, float]]) -> None:
        terms = list(terms)
        for name, parameter in parameters.items():
            moved = saved[name].to(terms[0][0][name].dtype)
            for direction, step in terms:
                moved = moved + step * direction[name]
            # Through .data, unseen by autograd; in place, so that whoever holds the memory (a flat copy of all
            # parameters, a captured graph) sees the same.
            parameter.data.copy_(moved)
        # What an enclosing autocast keeps are casts of the weights as they were, for it does not see .data either.
        torch.clear_autocast_cache()

    try:
        yield move
    finally:
        for name, parameter in parameters.items():
            parameter.data.copy_(saved[name])
        torch.clear_autocast_cache()


def _loss_at(
    loss: Callable[[], Tensor], snapshot: Snapshot, move: Move, terms: Iterable[tuple[Direction, float]]
) -> Tensor:
    snapshot.restore()
    move(terms)
    return check_loss(loss())


def _finite(name: str, steps: Iterable[float]) -> tuple[float, ...]:
    values = listed(name, steps)
    if not values:
        raise ValueError(f"{name} must have at least one step size, got none")
    for value in values:
        check_number(f"every one of {name}", value)
        if not isfinite(value):
            raise ValueError(f"every one of {name} must be finite, got {value}")
    return tuple(float(value) for value in values)
