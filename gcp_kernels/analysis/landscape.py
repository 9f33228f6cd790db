"""The loss along its own gradient: its range, how far the gradient changes, and the effective smoothness."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn, strided

from ..precision import accumulation_dtype
from ..validation import check_at_least, check_floating, check_has_values, check_module, check_number
from .state import modules_behind, preserved


def evenly_spaced(first: float, last: float, count: int = 50) -> tuple[float, ...]:
    """Return ``count`` evenly spaced step sizes from ``first`` to ``last``, both included.

    Raises:
        TypeError: ``count`` is no int, or an end no number.
        ValueError: ``count`` is below 2, or an end not finite.
    """
    check_at_least("count", count, 2)
    for name, value in (("first", first), ("last", last)):
        check_number(name, value)
        if not isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    last_index = count - 1
    return tuple((first * (last_index - i) + last * i) / last_index for i in range(count))


PUBLISHED_STEPS = {"resnet": evenly_spaced(0.1, 75.0), "mobilenet_v2": evenly_spaced(0.045, 1.5)}
"""Step sizes of "What Deep CNNs Benefit from Global Covariance Pooling: An Optimization Perspective" (CVPR 2020)."""


@dataclass(frozen=True)
class Landscape:
    """What :func:`loss_landscape` found, as plain numbers.

    Attributes:
        steps: d, the step sizes.
        losses: L(f(y + d g)) for each step.
        distances: ||g - g_d||_2 for each step, g_d being dL/dy at y + d g.
        loss: L(f(y)), where the walk starts.
        gradient_norm: ||g||_2 there.
        beta: effective beta-smoothness, the largest ||g - g_d||_2 / ||d g||_2, with d g as the dtype of y rounds it.
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    distances: tuple[float, ...]
    loss: float
    gradient_norm: float
    beta: float


def loss_landscape(
    rest: Callable[[Tensor], Any],
    y: Tensor,
    target: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    steps: Iterable[float],
    *,
    model: nn.Module | None = None,
) -> Landscape:
    """Walk from ``y`` along the gradient of the loss, and see how loss and gradient change.

    With f the ``rest`` of a network behind its stem and g = dL/dy at y, for every step size d

        loss      L(f(y + d g))                            the loss landscape (Lipschitzness)
        distance  ||g - g_d||_2,  g_d = dL/dy at y + d g   gradient predictiveness
        beta      max over d of  ||g - g_d||_2 / ||d g||_2   effective beta-smoothness

    the first two as in Wang et al., "What Deep CNNs Benefit from Global Covariance Pooling: An Optimization
    Perspective" (CVPR 2020), after Santurkar et al., "How Does Batch Normalization Help Optimization?" (NeurIPS 2018),
    which have beta, too. The papers report the range of losses and of distances over d against the training step:
    narrower is smoother. With d > 0 the walk is
    uphill, as published; a negative d goes the way that training does.

    The network is evaluated in the mode in which it is; the papers' is training. Every evaluation starts from the same
    buffers and random state, so that dropout and DropCov drop the same in all of them, and afterwards these, and
    ``.grad`` of all parameters, are what they were (:func:`gcp_kernels.analysis.preserved`). That holds for ``rest``
    and ``loss_fn`` where they are modules or methods of modules, and for ``model``; the random state always.

    Where a channel of y is zero in the whole batch and a BatchNorm comes behind it, nearly all of g may be in that
    channel, and the walk goes where training cannot: beta is then far above that of other steps.

    Distances are between gradients in the dtype of ``y``, taken in float32 at least. So is ||d g||_2 in beta, of the
    step that y + d g, rounded to that dtype, really takes. Under float16 autocast the gradient, which no gradient
    scaler enlarges here, may vanish: call this outside of autocast.

    Args:
        rest: f, from :func:`gcp_kernels.analysis.split` or any callable.
        y: output of the stem, floating point, any shape. Not changed.
        target: what ``loss_fn`` compares with.
        loss_fn: (output of ``rest``, target) to a loss of one element.
        steps: step sizes d, finite and not zero; ``PUBLISHED_STEPS["resnet"]`` are 50 from 0.1 to 75,
            ``PUBLISHED_STEPS["mobilenet_v2"]`` 50 from 0.045 to 1.5.
        model: what a ``rest`` that is no module calls, to be left as it was.

    Returns:
        A :class:`Landscape`. Where the gradient is zero, or rounding undoes a step, the walk stays in place, with
        distance and beta zero.

    Raises:
        TypeError: ``rest`` or ``loss_fn`` cannot be called, ``y`` is no floating-point tensor, a step is no number,
            ``model`` no module, the loss no tensor.
        ValueError: no step, or one that is zero or not finite; a loss of several elements, or one that does not depend
            on ``y``.
        RuntimeError: called under ``torch.inference_mode()``.

    Example:
        >>> import torch
        >>> from gcp_kernels.analysis import loss_landscape
        >>> walk = loss_landscape(lambda y: y, torch.tensor([3.0, 4.0]), 0, lambda y, _: y @ y / 2, steps=(1, 2))
        >>> walk.losses, walk.distances, walk.beta  # the gradient of |y|^2 / 2 changes by d |g| over d |g|
        ((50.0, 112.5), (5.0, 10.0), 1.0)
    """
    check_gradients_exist()
    check_callable("rest", rest)
    check_callable("loss_fn", loss_fn)
    check_floating("y", y)
    check_has_values("y", y)
    steps = checked_steps(steps)
    if model is not None:
        check_module("model", model)
    dtype = accumulation_dtype(y.dtype)
    with preserved(*modules_behind(rest, loss_fn), *(() if model is None else (model,))) as snapshot:
        loss, gradient, _ = _loss_and_gradient(rest, y, target, loss_fn)
        gradient = gradient.to(dtype)
        losses, distances, lengths = [], [], []
        for d in steps:
            snapshot.restore()
            moved_loss, moved_gradient, length = _loss_and_gradient(rest, y, target, loss_fn, d * gradient)
            losses.append(moved_loss)
            distances.append(torch.linalg.vector_norm(moved_gradient.to(dtype) - gradient))
            lengths.append(length)
    norm = torch.linalg.vector_norm(gradient)
    distance, length = torch.stack(distances), torch.stack(lengths)
    beta = torch.where(length == 0, 0, distance / length).amax()
    # One transfer from the device, in a dtype that holds all of them.
    numbers = torch.stack([loss, norm, beta, *losses, *distances]).tolist()
    count = len(steps)
    return Landscape(steps, tuple(numbers[3 : 3 + count]), tuple(numbers[3 + count :]), *numbers[:3])


def checked_steps(steps: Iterable[float]) -> tuple[float, ...]:
    """Return the step sizes as floats; raise as :func:`loss_landscape` says."""
    values = listed("steps", steps)
    if not values:
        raise ValueError("steps must have at least one step size, got none")
    for value in values:
        check_number("every step", value)
        if value == 0 or not isfinite(value):
            raise ValueError(f"every step must be finite and not zero, got {value}")
    return tuple(float(value) for value in values)


def listed(name: str, steps: Iterable[float]) -> tuple[float, ...]:
    """Return several numbers, which may be in a tensor, as a tuple; raise ``TypeError`` for a single number or text."""
    if isinstance(steps, Tensor):
        check_has_values(name, steps)
        if steps.layout != strided or steps.is_nested or steps.dim() != 1:
            raise TypeError(f"{name} must be several numbers, got a tensor that is no dense vector")
        steps = steps.tolist()
    if not isinstance(steps, Iterable) or isinstance(steps, str | bytes):
        raise TypeError(f"{name} must be several numbers, got {steps!r} of type {type(steps).__name__}")
    return tuple(steps)


def check_gradients_exist() -> None:
    """Raise ``RuntimeError`` in inference mode, which ``torch.enable_grad`` does not end."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("gradients are needed, which torch.inference_mode() does not allow; use torch.no_grad()")


def check_callable(name: str, function: object) -> None:
    """Raise ``TypeError`` unless ``function`` can be called; a class would make an object of what it is given."""
    if isinstance(function, type):
        raise TypeError(f"{name} must be callable, got the class {function.__name__}, not one of its objects")
    if not callable(function):
        raise TypeError(f"{name} must be callable, got {type(function).__name__}")


def check_loss(loss: object) -> Tensor:
    """Return the loss as a tensor without dimensions; raise unless it is a floating-point tensor of one element."""
    check_floating("the loss", loss)
    assert isinstance(loss, Tensor)
    if loss.numel() != 1:
        raise ValueError(f"the loss must have one element, got shape {tuple(loss.shape)}")
    return loss.reshape(())


def _loss_and_gradient(
    rest: Callable[[Tensor], Any],
    y: Tensor,
    target: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    displacement: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return L(f(y + displacement)), its gradient, and how far y + displacement is from y after rounding."""
    dtype = accumulation_dtype(y.dtype)
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        # Never the leaf itself: ``rest`` may begin with an operation in place.
        moved = leaf.clone() if displacement is None else (leaf + displacement).to(y.dtype)
        length = torch.linalg.vector_norm(moved.detach().to(dtype) - y.detach().to(dtype))
        loss = check_loss(loss_fn(rest(moved), target))
        gradient = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError("the loss does not depend on y: it has no gradient with respect to it")
    # On the device of y, too: a network on several GPUs has its loss on the last.
    return loss.detach().to(y.device, dtype), gradient, length
