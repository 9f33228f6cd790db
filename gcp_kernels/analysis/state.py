"""The state that an evaluation of a network changes, kept and put back: buffers, modes, gradients, random numbers."""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..validation import check_module


@dataclass(frozen=True)
class RandomState:
    """States of the global random number generators: torch's of the CPU and of each GPU, Python's, NumPy's if loaded.

    A ``torch.Generator`` that a user made is not among them.
    """

    cpu: Tensor
    cuda: tuple[Tensor, ...]
    python: Any
    numpy: Any

    @classmethod
    def now(cls) -> "RandomState":
        """Return the states at this moment."""
        # A GPU that nothing has used yet has drawn nothing, and asking would start it.
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        numpy = sys.modules.get("numpy")
        return cls(torch.get_rng_state(), cuda, random.getstate(), None if numpy is None else numpy.random.get_state())

    def same_as(self, other: "RandomState") -> bool:
        """Return whether no number was drawn between the two; a GPU or NumPy that only one of them has is ignored."""
        tensors = zip((self.cpu, *self.cuda), (other.cpu, *other.cuda), strict=False)
        numpy = sys.modules.get("numpy")
        parts = () if self.numpy is None or other.numpy is None else zip(self.numpy, other.numpy, strict=True)
        return (
            all(torch.equal(one, another) for one, another in tensors)
            and self.python == other.python
            and all(numpy is not None and numpy.array_equal(one, another) for one, another in parts)
        )

    def restore(self) -> None:
        """Set the generators to these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target of the same dtype and device; on a GPU few launches, however many there are."""
    groups: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        groups.setdefault((target.dtype, target.device), []).append((target, source))
    for group in groups.values():
        torch._foreach_copy_([target for target, _ in group], [source for _, source in group])


class Snapshot:
    """What evaluations change in some modules: their buffers and modes, and the random state.

    :meth:`restore` may be called any number of times, before each of several evaluations that should all start from the
    same state: then they share their dropout masks, and no statistics drift from one to the next.
    """

    def __init__(self, *modules: nn.Module) -> None:
        every = dict.fromkeys(module for root in modules for module in root.modules())
        self._training = {module: module.training for module in every}
        self._registered = {module: dict(module._buffers) for module in every}
        buffers = dict.fromkeys(b for names in self._registered.values() for b in names.values() if b is not None)
        self._buffers = list(buffers)
        self._values = [buffer.detach().clone() for buffer in self._buffers]
        self._random = RandomState.now()

    def restore(self) -> None:
        """Put everything back, every buffer as the same tensor object with the same values."""
        for module, training in self._training.items():
            module.training = training
        for module, registered in self._registered.items():
            module._buffers.clear()
            module._buffers.update(registered)
        # Through .data, which autograd does not count as a change: a graph of the training step that saved a buffer,
        # and has not run backward yet, stays valid.
        copy_all([buffer.data for buffer in self._buffers], self._values)
        self._random.restore()


@contextmanager
def preserved(*modules: nn.Module) -> Iterator[Snapshot]:
    """Undo, at the end of the block, what evaluations in it change in the modules and in the random state.

    Put back at the end, bit for bit and also after an exception, are every buffer (BatchNorm's statistics), the
    ``training`` flag of every module, ``.grad`` of every parameter, and the global random states: torch's on the CPU
    and, once CUDA is in use, on every GPU, Python's, and NumPy's if it is loaded. Gradients are set aside: inside,
    ``.grad`` is ``None``. Parameters, and with them the state of an optimiser, are not touched here; a block that
    changes parameters has to put them back. Not covered are tensors that a module holds outside its buffers, and
    generators of its own.

    Args:
        modules: the networks that are evaluated; a module shared by several counts once.

    Yields:
        The :class:`Snapshot`, whose ``restore()`` resets buffers, flags and random states in between.

    Raises:
        TypeError: one of them is no module.

    Example:
        >>> import torch
        >>> from gcp_kernels.analysis import preserved
        >>> norm = torch.nn.BatchNorm1d(3)
        >>> with preserved(norm):
        ...     _ = norm.train()(torch.randn(8, 3))
        >>> norm.running_mean, norm.num_batches_tracked
        (tensor([0., 0., 0.]), tensor(0))
    """
    for module in modules:
        check_module("modules", module)
    snapshot = Snapshot(*modules)
    gradients = {parameter: parameter.grad for module in modules for parameter in module.parameters()}
    try:
        for parameter in gradients:
            parameter.grad = None
        yield snapshot
    finally:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        snapshot.restore()


def modules_behind(*callables: Callable[..., Any] | None) -> tuple[nn.Module, ...]:
    """Return the modules among some callables, and those of which one is a method; others hold no known state."""
    owners = (getattr(function, "__self__", function) for function in callables)
    return tuple(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))
