"""Modules that wrap a whole model for compilation, several devices or averaging, and the names that they add."""

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from .validation import check_has_values, check_module

# The attribute in which each wrapper keeps the model. Classes go by module and name: nothing needs to be imported, and
# a class that nobody has imported wraps no model.
_INSIDE = {
    ("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod",
    ("torch.nn.parallel.data_parallel", "DataParallel"): "module",
    ("torch.nn.parallel.distributed", "DistributedDataParallel"): "module",
    ("torch.optim.swa_utils", "AveragedModel"): "module",
}
_SHARDED = ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel")
_ADDED = frozenset(_INSIDE.values())


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile, DataParallel, DistributedDataParallel and AveragedModel, in any order.

    Raises:
        TypeError: ``model`` is no module, or FullyShardedDataParallel wraps it or a part of it and keeps slices of the
            parameters under other names. (``fully_shard`` wraps nothing and keeps the names.)
    """
    check_module("model", model)
    for module in model.modules():
        if _SHARDED in _kinds(module):
            raise TypeError(
                f"model must not be sharded by FullyShardedDataParallel, which keeps no parameter whole, got a "
                f"{type(model).__name__}; use the model as it was before"
            )
    while (place := wrapper_attribute(model)) is not None:
        model = getattr(model, place)
    return model


def check_unsharded(model: nn.Module) -> None:
    """Raise unless ``model`` is a module whose parameters are there, and whole, in this process."""
    for name, parameter in unwrapped(model).named_parameters():
        check_has_values(f"parameter {name!r} of the model", parameter)
        if hasattr(parameter, "device_mesh"):  # a DTensor, which fully_shard makes
            raise TypeError(f"model must not be sharded, got one with {name!r} on {parameter.device_mesh}")


def wrapper_attribute(model: nn.Module) -> str | None:
    """Return the attribute in which ``model`` keeps the model that it wraps; ``None`` if it is no wrapper."""
    return next((_INSIDE[kind] for kind in _kinds(model) if kind in _INSIDE), None)


def without_wrappers(name: str) -> str:
    """Return the name of a parameter or module without the parts that wrappers add to it."""
    return ".".join(part for part in name.split(".") if part not in _ADDED)


def uncompiled() -> AbstractContextManager[None]:
    """Run compiled code as it was written: the backward pass that torch.compile makes has no derivative."""
    if "torch._dynamo" not in sys.modules:  # then nothing has been compiled, and importing it takes seconds
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _kinds(module: nn.Module) -> list[tuple[str, str]]:
    return [(kind.__module__, kind.__qualname__) for kind in type(module).__mro__]
