"""Batches and strides that every form of launch of the Triton kernels is held with."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.support import inputs, oracle, tolerances
from tests.support import triton_forms as forms

C, M = 18, 9
D = C * (C + 1) // 2
# What each sample of a batch is; clean ones are all the same.
SAMPLES = (
    "nan",
    "clean",
    "inf",
    "clean",
    "constant",
    "zero upstream",
    "nan upstream",
    "clean",
    "huge",
    "tiny",
    "clean",
)


def batch_of(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Features and upstream gradients of :data:`SAMPLES`, the clean ones being as given, (1, C, M) and (1, ...)."""
    x, grad = (tensor.repeat(len(SAMPLES), *[1] * (tensor.dim() - 1)) for tensor in (x, grad))
    for i, kind in enumerate(SAMPLES):
        if kind in ("nan", "inf"):
            x[i, 1, -1] = float(kind)
        elif kind == "constant":
            x[i] = torch.linspace(-3.3, 1e4, x.shape[1])[:, None]
        elif kind == "nan upstream":
            grad[i].view(-1)[3] = float("nan")
        elif kind == "zero upstream":
            grad[i] = 0
        elif kind in ("huge", "tiny"):
            x[i] *= (inputs.LARGE if kind == "huge" else inputs.SMALL)[x.dtype]
    return x, grad


def check_batch(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, *, spreads: bool) -> None:
    """Each of :data:`SAMPLES` is as it should be; ``spreads``: NaN in one element reaches all of its sample."""
    (value,), (gradient,) = forms.run(function, x, grad)
    values, gradients = forms.run(function, *batch_of(x, grad))
    for i, kind in enumerate(SAMPLES):
        if kind in ("nan", "inf"):
            assert values[i].isnan().all() if spreads else not values[i].isfinite().all(), kind
        if kind in ("nan", "inf", "nan upstream"):
            assert gradients[i].isnan().all() if spreads else not gradients[i].isfinite().all(), kind
        if kind == "constant":
            assert not values[i].any()
        if kind in ("constant", "zero upstream"):
            assert not gradients[i].any(), kind
        if kind in ("clean", "nan upstream", "zero upstream"):
            assert torch.equal(values[i], value), kind
        if kind == "clean":
            assert torch.equal(gradients[i], gradient)
        if kind in ("huge", "tiny"):
            assert values[i].isfinite().all(), kind
            assert gradients[i].isfinite().all(), kind
            assert values[i].any(), kind
            assert gradients[i].any(), kind


def check_gradient_of(magnitudes: list[float]) -> None:
    x, grad = torch.randn(len(magnitudes), C, M), torch.tensor(magnitudes)[:, None] * torch.randn(len(magnitudes), D)
    _, gradient = forms.run(forms.pool(1), x, grad)
    exact = oracle.isqrt_pool_grad(x, 1, oracle.triangle_grad(grad.double(), C))
    subnormal = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    for ours, truth in zip(gradient.double(), exact, strict=True):
        assert (ours - truth).norm() <= tolerances.PROMISE["high"] * truth.norm() + 4 * subnormal * truth.numel() ** 0.5


LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "tokens": ((2, M, C), lambda base: base.mT),
    "sliced": ((5, 2 * C + 1, 3 * M), lambda base: base[1::3, 1::2, 2::3]),
    "batch_expanded": ((1, C, M), lambda base: base.expand(2, C, M)),
    "negative_view": ((2, C, M, 2), lambda base: torch.view_as_complex(base).conj().imag),
}
UPSTREAM: dict[str, Callable[[Tensor], Tensor]] = {
    "one_number_expanded": lambda grad: grad.flatten()[0].expand_as(grad),
    "sliced": lambda grad: torch.stack([grad, grad.neg(), grad], dim=-1)[..., 1],
    "rows_and_columns_transposed": lambda grad: grad.mT.contiguous().mT,
    "batch_expanded": lambda grad: grad[:1].expand_as(grad),
}
COMBINATIONS = [(*pair, ("full", "triu")[i % 2]) for i, pair in enumerate(zip(LAYOUTS, UPSTREAM, strict=True))]


def dense(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)
