"""An operator of the library "gcp_kernels": its schema, fake, gradient, tangent, vmap rule and autocast rule."""

import sys
from collections.abc import Callable
from functools import cache, partial
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from gcp_kernels.precision import without_autocast
from gcp_kernels.transforms import drops_tangents, hides_operators, is_transforming, tangents_of_tangents

from . import decompositions
from .backends import implementation, select
from .derivatives import push_forward
from .dispatch import is_differentiated, is_idle

LIBRARY = torch.library.Library("gcp_kernels", "DEF")

# All of them, forward and backward: the first dimension of each tensor that they take or return is the batch.
OPERATORS: list[OpOverload] = []

_AUTOCAST_DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


class Operator:
    """An operator, as this package calls it. Everyone else calls it as ``torch.ops.gcp_kernels.<name>``.

    Autocast does not convert its arguments: it runs with autocast disabled, because its matrix products choose their
    own precision. Under ``torch.vmap`` the mapped dimension is merged with the batch, the first dimension of every
    tensor. Where torch's dispatcher has nothing to do (see :func:`is_idle`), it is not called.

    Args:
        operation: the operation that a backend is chosen for.
        fake: returns empty outputs of the right shapes, strides and dtypes. Its annotated signature becomes that of
            the operator: tensors first, then options, of which ``backend`` is the last and ``precision`` may be one.
        check: raises for wrong arguments in direct calls of ``torch.ops.gcp_kernels``; it takes those that it names.
            Calls from this package do not need it: the public functions check, and torch checks the gradient that a
            backward pass gets.
        backward: whether this is the backward pass of the operation. Its first argument is the upstream gradient.
    """

    def __init__(
        self, operation: str, fake: Callable[..., Any], check: Callable[..., None], *, backward: bool = False
    ) -> None:
        name = f"{operation}_backward" if backward else operation
        self.name = f"{LIBRARY.ns}::{name}"
        parameters = signature(fake).parameters
        self.parameters = tuple(parameters)
        self.tensors = sum(one.annotation in (Tensor, Tensor | None) for one in parameters.values())
        # "int" and not "SymInt": a compiler takes the number of iterations for a constant.
        schema = torch.library.infer_schema(fake, mutates_args=()).replace("SymInt ", "int ")
        LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        self._dispatched = getattr(torch.ops.gcp_kernels, name).default
        OPERATORS.append(self._dispatched)
        chosen_for = 1 if backward else 0
        precision = self.parameters.index("precision") if "precision" in self.parameters else None
        checked = [self.parameters.index(argument) for argument in signature(check).parameters]

        def compute(*args: Any) -> Any:
            named = "default" if precision is None else args[precision]
            backend = select(operation, args[chosen_for], args[-1], named, backward=backward)
            return implementation(name, backend)(*args[:-1])

        def below_autograd(*args: Any) -> Any:
            if drops_tangents():
                raise RuntimeError(
                    f"{self.name} has no tangent of its own, and was called directly, as an exported graph does, "
                    "under forward-mode differentiation; use reverse mode there, or the functions of gcp_kernels"
                )
            check(*(args[i] for i in checked))
            return compute(*args)

        def under_autocast(device_type: str) -> Callable[..., Any]:
            def run(*args: Any) -> Any:
                with torch.autocast(device_type, enabled=False):
                    return self._dispatched(*args)

            return run

        self._compute, self._fake = compute, fake
        LIBRARY.impl(name, below_autograd, "CompositeExplicitAutograd")
        for device_type, key in _AUTOCAST_DEVICES.items():
            LIBRARY.impl(name, under_autocast(device_type), key)
        torch.library.register_fake(self.name, fake, lib=LIBRARY)
        torch.library.register_vmap(self.name, _fold_into_batch(self._dispatched), lib=LIBRARY)

    def __call__(self, *args: Any) -> Any:
        """Compute; let autograd, an active transform, a mode or a compiler see the call as that of an operator.

        Raises:
            RuntimeError: a compiler traces through a derivative of ``torch.func``; or no backend can run it.
        """
        tensors = args[: self.tensors]
        if is_idle(tensors):
            return self._recorded(*args) if is_differentiated(tensors) else self._compute(*args)
        if self._dispatched in decompositions.TABLE and decompositions.goes_to_onnx():
            with without_autocast(args[0].device):
                return decompositions.decompose_for_onnx(self._dispatched, args)
        if hides_operators():
            raise RuntimeError(
                f"{self.name} has no derivative inside torch.compile around a transform of torch.func (grad, "
                "jvp and so on); leave backend out for plain PyTorch there, or do not compile the transform"
            )
        if not torch.compiler.is_compiling() and is_transforming():
            return self._transformed(*args)
        return self._dispatched(*args)

    def decompose_by(self, decomposition: Callable[..., Tensor], in_onnx: bool = True) -> None:
        """Attach the operation in operators of torch, for programs that are to run without this package.

        Args:
            decomposition: returns the result alone, from the tensors and the options that it names in its signature.
                It changes nothing in place.
            in_onnx: whether ONNX has all operators that it takes.
        """
        decompositions.register(self._dispatched, self._fake, decomposition, in_onnx)

    def differentiate_by(self, differentiate: Callable[..., Any], save: Callable[..., None]) -> None:
        """Attach the backward formula, for each of the three ways in which an operator is called.

        Through the dispatcher, ``torch.library`` knows the formula. But ``torch.func.grad`` and similar transforms do
        not see it there: they want a ``torch.autograd.Function``. Nor does forward-mode differentiation, under which
        the operator would lose the tangent without a word. So while such a transform is active, a call goes through an
        ``autograd.Function`` made of the same formula. A call that leaves the dispatcher out goes through another one.

        Args:
            differentiate: takes a context and the upstream gradients, ``None`` for zero; returns a gradient or
                ``None`` for each argument. It is linear in the upstream gradients (J^T grad), so its own backward
                pass is J tangent, which is the formula of forward mode.
            save: takes a context, the arguments and the output; keeps in the context what ``differentiate`` reads.
        """
        torch.library.register_autograd(self.name, differentiate, setup_context=save, lib=LIBRARY)
        compute, dispatched = self._compute, self._dispatched

        def record(ctx: Any, *args: Any) -> Any:
            output = compute(*args)
            save(ctx, args, output)
            return output

        # Both in one function: with a separate setup_context torch would inspect a signature in every call.
        methods = {"forward": staticmethod(record), "backward": staticmethod(differentiate)}
        self._recorded = type(self.name.split("::")[1], (torch.autograd.Function,), methods).apply  # type: ignore[attr-defined]

        def transformed(*args: Any) -> Any:
            return uncompiled()(*args) if "torch._dynamo" in sys.modules else Transformed.apply(*args)

        @cache
        def uncompiled() -> Callable[..., Any]:
            """Keep compilers out: one that gave up on the code around would trace each formula below, and fail."""
            return torch.compiler.disable(Transformed.apply)

        class Transformed(torch.autograd.Function):
            @staticmethod
            def forward(*args: Any) -> Any:
                return dispatched(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                save(ctx, inputs, output)
                constants = ctx.non_differentiable or ()
                outputs = output if isinstance(output, tuple) else (output,)
                ctx.upstream = [
                    None if any(o is c for c in constants) else (o.shape, o.dtype, o.device) for o in outputs
                ]

            backward = staticmethod(differentiate)
            vmap = staticmethod(_fold_into_batch(transformed))

            @staticmethod
            def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
                with tangents_of_tangents(*ctx.saved_tensors) as saved:
                    pull_back = partial(differentiate, SimpleNamespace(**{**vars(ctx), "saved_tensors": saved}))
                    pushed = push_forward(pull_back, ctx.upstream, tangents)
                return pushed if len(pushed) > 1 else pushed[0]

        self._transformed = transformed


def _fold_into_batch(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Make the vmap rule of an operator whose tensors all have the batch as their first dimension."""

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
