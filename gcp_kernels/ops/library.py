"""The operator library "gcp_kernels", and what every operator in it does alike under autocast and vmap."""

import sys
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from gcp_kernels.transforms import drops_tangents, hides_operators, is_transforming, tangents_of_tangents

from .second_order import push_forward

LIBRARY = torch.library.Library("gcp_kernels", "DEF")

_AUTOCAST_DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def define(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Define an operator and register everything but its autograd; returns the callable operator.

    Under autocast an operator takes what it is given: it runs with autocast disabled, since its matrix products choose
    their own precision. Under ``torch.vmap`` the mapped dimension is folded into the batch, which comes first in every
    tensor.

    Args:
        schema: name and signature in the schema language of ``torch.library``; tensors (B, ...) only.
        implementation: for every real device.
        fake: gives empty outputs of the right shapes, strides and dtypes.
    """
    name = schema[: schema.index("(")]
    qualified_name = f"{LIBRARY.ns}::{name}"
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.gcp_kernels, name).default

    def run_below_tangents(*args: Any) -> Any:
        if drops_tangents():
            raise RuntimeError(
                f"{qualified_name} has no tangent of its own, and was called directly, as an exported graph does, "
                "under forward-mode differentiation; use reverse mode there, or the functions of gcp_kernels"
            )
        return implementation(*args)

    def under_autocast(device_type: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with torch.autocast(device_type, enabled=False):
                return operator(*args)

        return run

    LIBRARY.impl(name, run_below_tangents, "CompositeExplicitAutograd")
    for device_type, key in _AUTOCAST_DEVICES.items():
        LIBRARY.impl(name, under_autocast(device_type), key)
    torch.library.register_fake(qualified_name, fake, lib=LIBRARY)
    torch.library.register_vmap(qualified_name, _fold_into_batch(operator), lib=LIBRARY)
    return operator


def keeps_iterates(tensor: Tensor, wanted: bool, backend: str) -> bool:
    """Iterates are kept where time is short and memory is not: by the torch backend on the CPU."""
    return wanted and tensor.device.type == "cpu" and backend in ("auto", "torch")


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Keep what the backward formula reads, for it and for the tangents that are made of it."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def differentiable(
    operator: Any, differentiate: Callable[..., Any], save_for_backward: Callable[..., None]
) -> Callable[..., Any]:
    """Attach a backward formula to an operator, and return the callable to use inside the package.

    An autograd formula registered with ``torch.library`` is not seen by ``torch.func.grad`` and its kin, which want a
    ``torch.autograd.Function``. So while such a transform is active the callable goes through one, made of the same
    formula; everywhere else it is the operator. The same holds under forward-mode differentiation, where the operator
    would drop the tangent unseen.

    The backward formula is linear in the upstream gradients, J^T grad, and so its own backward pass is J tangent: the
    forward-mode formula.
    """
    name = operator.name()
    torch.library.register_autograd(name, differentiate, setup_context=save_for_backward, lib=LIBRARY)

    def transformed(*args: Any) -> Any:
        return uncompiled()(*args) if "torch._dynamo" in sys.modules else Transformed.apply(*args)

    @cache
    def uncompiled() -> Callable[..., Any]:
        """Where a compiler gave up on what is around, it would trace the formulas below one by one, and fail."""
        return torch.compiler.disable(Transformed.apply)

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return operator(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save_for_backward(ctx, inputs, output)
            constants = ctx.non_differentiable or ()
            outputs = output if isinstance(output, tuple) else (output,)
            ctx.upstream = [None if any(o is c for c in constants) else (o.shape, o.dtype, o.device) for o in outputs]

        backward = staticmethod(differentiate)
        vmap = staticmethod(_fold_into_batch(transformed))

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            with tangents_of_tangents(*ctx.saved_tensors) as saved:
                pull_back = partial(differentiate, SimpleNamespace(**{**vars(ctx), "saved_tensors": saved}))
                pushed = push_forward(pull_back, ctx.upstream, tangents)
            return pushed if len(pushed) > 1 else pushed[0]

    def call(*args: Any) -> Any:
        if hides_operators():
            raise RuntimeError(
                f"{name} has no derivative inside torch.compile around a transform of torch.func (grad, "
                "jvp and so on); leave backend out for plain PyTorch there, or do not compile the transform"
            )
        if not torch.compiler.is_compiling() and is_transforming():
            return transformed(*args)
        return operator(*args)

    return call


def _fold_into_batch(operator: Callable[..., Any]) -> Callable[..., Any]:
    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        n = info.batch_size

        def fold(arg: Any, dim: int | None) -> Any:
            if not isinstance(arg, Tensor):
                return arg
            return (arg.expand(n, *arg.shape) if dim is None else arg.movedim(dim, 0)).flatten(0, 1)

        def unfold(result: Tensor) -> Tensor:
            return result.unflatten(0, (n, b))

        b = next(
            arg.shape[1 if dim == 0 else 0] for arg, dim in zip(args, in_dims, strict=True) if isinstance(arg, Tensor)
        )
        results = operator(*map(fold, args, in_dims))
        if isinstance(results, Tensor):
            return unfold(results), 0
        return tuple(map(unfold, results)), (0,) * len(results)

    return rule
