"""Let classes that only look like tensors take over a call of a public function, as they can with torch's functions."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def overridable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let ``__torch_function__`` of an argument, or of an active mode, take over a call of ``function``.

    A ``torch.fx.Proxy`` then makes one node of the call instead of failing in the checks of its arguments, and a tensor
    subclass sees the call as a whole. A compiler traces ``function`` itself, and handles such modes by its own means.
    """

    @wraps(function)
    def public(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        given = (*args, *kwargs.values())
        if has_torch_function(given) and not torch.compiler.is_compiling():
            return handle_torch_function(public, given, *args, **kwargs)
        return function(*args, **kwargs)

    return public
