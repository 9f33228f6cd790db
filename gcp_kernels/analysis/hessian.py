"""hessian_top_eigenvalue: the largest curvature of a loss in its parameters, by power iteration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..validation import check_at_least, check_integer, check_positive
from ..wrappers import check_unsharded, uncompiled
from .landscape import check_callable, check_gradients_exist, check_loss
from .state import preserved


@dataclass(frozen=True)
class TopEigenvalue:
    """What :func:`hessian_top_eigenvalue` found.

    Attributes:
        eigenvalue: lambda, the Rayleigh quotient v^T H v of the last unit vector v, with its sign.
        residual: ||H v - lambda v||_2. The Hessian has an eigenvalue at most this far from ``eigenvalue``.
        iterations: products H v that were taken.
        converged: whether the residual came below ``tolerance`` times abs(lambda).
    """

    eigenvalue: float
    residual: float
    iterations: int
    converged: bool


def hessian_top_eigenvalue(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> TopEigenvalue:
    """Find the eigenvalue of the loss's Hessian that is largest in magnitude, with its sign.

    H is the matrix of second derivatives in all parameters of ``model`` that require a gradient. Power iteration takes
    only products H v, each of which is a backward pass through the gradient (Pearlmutter, "Fast Exact Multiplication by
    the Hessian", 1994); so the pooling is differentiated twice, exactly. ``loss`` is called once: all products are with
    the same function, with one dropout mask and one set of batch statistics. Its graph is in memory until the end.

    At a minimum the largest eigenvalue is the sharpness. Where a negative one is larger in magnitude, it is found and
    comes with its sign. If the two largest have about the same magnitude, the iteration ends without converging.

    The model is evaluated in the mode in which it is, and left as it was (:func:`gcp_kernels.analysis.preserved`).
    ``scaled_dot_product_attention`` is computed by its plain implementation (``SDPBackend.MATH``), the only one with a
    second derivative.

    Args:
        model: whose parameters are meant; float32 or float64. Compiled models run as they were written, for what
            torch.compile makes has no second derivative.
        loss: the loss as a function of nothing, ``lambda: cross_entropy(model(images), target)``.
        max_iterations: products at most, at least 1.
        tolerance: of the residual, relative to the eigenvalue; above 0.
        seed: of the vector that the iteration starts from, the same on every device.

    Returns:
        A :class:`TopEigenvalue`. A loss that is linear in the parameters has eigenvalue 0.

    Raises:
        TypeError: an argument or the loss has the wrong type; a parameter is of half precision, in which second
            derivatives have no digits; the model is sharded (FullyShardedDataParallel, ``fully_shard``).
        ValueError: no parameter requires a gradient; the loss has several elements or depends on no parameter; an
            option is out of its range.
        RuntimeError: from torch, where the model contains an operation without a second derivative; called under
            ``torch.inference_mode()``.

    Example:
        >>> import torch
        >>> from gcp_kernels.analysis import hessian_top_eigenvalue
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> curvature = torch.tensor([1.0, -3.0])
        >>> top = hessian_top_eigenvalue(layer, lambda: (curvature * layer.weight**2).sum() / 2)
        >>> round(top.eigenvalue, 3), top.converged
        (-3.0, True)
    """
    check_unsharded(model)
    check_gradients_exist()
    check_callable("loss", loss)
    check_at_least("max_iterations", max_iterations, 1)
    check_positive("tolerance", tolerance)
    check_integer("seed", seed)
    parameters = _differentiated(model)
    with preserved(model), uncompiled(), torch.enable_grad():
        with sdpa_kernel(SDPBackend.MATH):
            value = check_loss(loss())
        gradients = _derivatives([value], parameters, None, create_graph=True)
        if gradients is None:
            raise ValueError("the loss does not depend on a parameter of the model that requires a gradient")
        return _power_iteration(gradients, parameters, max_iterations, tolerance, seed)


def _differentiated(model: nn.Module) -> list[Tensor]:
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not named:
        raise ValueError("no parameter of the model requires a gradient")
    for name, parameter in named:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"parameters must be float32 or float64, got {parameter.dtype} for {name!r}")
    return [parameter for _, parameter in named]


def _derivatives(
    outputs: list[Tensor], parameters: list[Tensor], upstream: list[Tensor] | None, create_graph: bool
) -> list[Tensor] | None:
    """Return the gradients of <outputs, upstream>, zero for a parameter without influence; ``None`` if none has any."""
    used = [i for i, out in enumerate(outputs) if out.requires_grad]
    if not used:
        return None
    found = torch.autograd.grad(
        [outputs[i] for i in used],
        parameters,
        None if upstream is None else [upstream[i] for i in used],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )
    if all(gradient is None for gradient in found):
        return None
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def _power_iteration(
    gradients: list[Tensor], parameters: list[Tensor], max_iterations: int, tolerance: float, seed: int
) -> TopEigenvalue:
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for p in parameters]
    vector = _scaled(vector, 1 / _dot(vector, vector).sqrt())
    eigenvalue = residual = 0.0
    for iteration in range(1, max_iterations + 1):
        product = _derivatives(gradients, parameters, vector, create_graph=False)
        if product is None:
            return TopEigenvalue(0.0, 0.0, iteration, True)
        quotient = _dot(vector, product)
        rest = [h.double() - quotient.to(v.device) * v.double() for h, v in zip(product, vector, strict=True)]
        length = _dot(product, product).sqrt()
        eigenvalue, residual, size = torch.stack([quotient, _dot(rest, rest).sqrt(), length]).tolist()
        if residual <= tolerance * abs(eigenvalue) or size == 0 or not isfinite(size):
            return TopEigenvalue(eigenvalue, residual, iteration, isfinite(size))
        vector = _scaled(product, 1 / length)
    return TopEigenvalue(eigenvalue, residual, max_iterations, False)


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the inner product over all parameters, on the device of the first; parameters may be on several.

    In float64: the square of a curvature of 1e20 is beyond float32, that of 1e-30 below it.
    """
    products = [(a.double() * b.double()).sum().to(one[0].device) for a, b in zip(one, other, strict=True)]
    return torch.stack(products).sum()


def _scaled(vector: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    return [(factor.to(v.device) * v.double()).to(v.dtype) for v in vector]
