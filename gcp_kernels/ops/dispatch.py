"""Whether the dispatcher of torch has anything to do for an operator that is called now.

It has where something traces, transforms, converts or watches: then a bit is set in what torch keeps for the thread,
or in the keys of a tensor. Where none is set, what an operator runs may be called at once.
"""

from functools import cache
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler


def _thread_state() -> tuple[int, int]:
    """Give the keys that are included and excluded for all tensors of this thread: modes, transforms, autocast."""
    return torch._C._dispatch_tls_local_include_set().raw_repr(), torch._C._dispatch_tls_local_exclude_set().raw_repr()


def _untouched_states() -> frozenset[tuple[int, int]]:
    """Find the state of a thread in which nothing has been set, and that of inference mode.

    In a thread of its own, since this module may be imported inside a mode.
    """
    states = []

    def ask() -> None:
        states.append(_thread_state())
        with torch.inference_mode():
            states.append(_thread_state())

    thread = Thread(target=ask)
    thread.start()
    thread.join()
    return frozenset(states)


_UNTOUCHED = _untouched_states()


@cache
def _plain_keys(device: torch.device) -> frozenset[int]:
    """Give the keys of tensors on a device that have values, and are no lazy negation, zero or wrapper."""
    if device.type == "meta":
        return frozenset()
    keys = set()
    for inference in (False, True):
        with torch.inference_mode(inference):
            keys.add(torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr())
    return frozenset(keys)


def is_idle(args: tuple[Any, ...]) -> bool:
    """Say whether an operator called with ``args`` would only compute, and be differentiated by autograd at most."""
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0 or _thread_state() not in _UNTOUCHED:
        return False
    if profiler._is_profiler_enabled:  # it lists operators by name
        return False
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return all(torch._C._dispatch_keys(tensor).raw_repr() in _plain_keys(tensor.device) for tensor in tensors)


def is_differentiated(args: tuple[Any, ...]) -> bool:
    """Say whether autograd records what is computed from ``args``."""
    return torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
