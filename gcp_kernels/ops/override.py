"""Public functions hand what only looks like a tensor to the class that it is, as those of torch do."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def overridable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function that asks ``__torch_function__`` of its arguments, and of an active mode, before it runs.

    So a ``torch.fx.Proxy`` makes a node of it instead of failing in its checks, and a tensor subclass sees it as a
    whole. A compiler follows what is inside, modes of its own included, and is left to it.
    """

    @wraps(function)
    def public(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        given = (*args, *kwargs.values())
        if has_torch_function(given) and not torch.compiler.is_compiling():
            return handle_torch_function(public, given, *args, **kwargs)
        return function(*args, **kwargs)

    return public
