"""Find out whether torch's dispatcher has anything to do for an operator that is called now.

It has work wherever something traces, transforms, converts or watches. Torch then sets a bit for the thread, or in the
dispatch keys of a tensor. Where no such bit is set, an operator may call its backend directly.
"""

from functools import cache
from threading import Thread

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.overrides import has_torch_function


def _bits_of_named_tensors() -> int:
    """Return the bits of the key of named tensors; torch has had none since these were removed."""
    try:
        return torch._C.DispatchKeySet(torch._C._dispatch_key_parse("Named")).raw_repr()
    except RuntimeError:
        return 0


# The autograd engine of torch 2.10 and 2.11 excludes them during a backward pass. Operators here do not know them.
_NAMED = _bits_of_named_tensors()


def _thread_state() -> tuple[int, int]:
    """Return the dispatch keys that this thread includes and excludes for all tensors: modes, transforms, autocast."""
    excluded = torch._C._dispatch_tls_local_exclude_set().raw_repr()
    return torch._C._dispatch_tls_local_include_set().raw_repr(), excluded | _NAMED


def _untouched_states() -> frozenset[tuple[int, int]]:
    """Find the state of a thread in which nothing is set, and its state in inference mode.

    They are found in a new thread, because this module may be imported inside a mode.
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


# Keys of plain tensors: those with values of their own, neither a lazy negation nor a lazy zero nor a wrapper. The keys
# of a device are added when its first tensor comes.
_PLAIN: set[int] = set()


@cache
def _learn(device: torch.device) -> None:
    """Add the keys that plain tensors on ``device`` have."""
    if device.type != "meta":
        for inference in (False, True):
            with torch.inference_mode(inference):
                _PLAIN.add(torch._C._dispatch_keys(torch.empty(0, device=device)).raw_repr())


def _is_plain(tensor: Tensor) -> bool:
    keys = torch._C._dispatch_keys(tensor).raw_repr()
    if keys not in _PLAIN:
        _learn(tensor.device)
    return keys in _PLAIN


def is_idle(tensors: tuple[Tensor | None, ...]) -> bool:
    """Say whether the dispatcher may be left out: nothing but autograd would see an operator that gets ``tensors``.

    Two kinds of onlooker are not noticed, since torch does not say that they are there: an execution trace without a
    profiler, and a kernel that other code has registered for an operator of this library.
    """
    if has_torch_function(tensors):  # in a backward pass: the public functions have asked for the forward pass
        return False
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0 or _thread_state() not in _UNTOUCHED:
        return False
    if profiler._is_profiler_enabled:  # a profile lists operators by name
        return False
    for tensor in tensors:  # noqa: SIM110  # a generator would take longer than all the rest
        if tensor is not None and not _is_plain(tensor):
            return False
    return True


def is_differentiated(tensors: tuple[Tensor | None, ...]) -> bool:
    """Say whether autograd records what is computed from ``tensors``."""
    # Inside of inference mode torch records nothing, whatever is enabled there.
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False
