"""Watches what interpreted Triton kernels read and write, and raises where a GPU would fault or race.

In the interpreter programs run one after another and barriers do nothing, so neither a missing barrier nor a program
that needs another's result changes a value there; and reading a neighbour's memory does no harm. Here they are errors:

- an element is touched that is of none of the tensors that the kernel was given;
- between two barriers, a program reads an element that it also writes, or writes it twice with different values. The
  warps of a program reach its instructions in any order, so between barriers nothing is ordered;
- a program touches an element that another program of the same launch writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy
import pytest
import torch
from triton.runtime import interpreter


class Race(AssertionError):
    """Two accesses whose order a GPU does not promise."""


class OutOfBounds(AssertionError):
    """An access to what is no element of a kernel's arguments."""


class Watch:
    """Kernels interpreted from now until the end of the test are watched; ``launches`` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.launches = 0
        self._load = interpreter.InterpreterBuilder.create_masked_load
        self._store = interpreter.InterpreterBuilder.create_masked_store
        self._place = interpreter.InterpreterBuilder.set_grid_idx
        self._launch = interpreter.GridExecutor.__call__
        watch = self

        def load(builder, pointers, mask, *rest):
            watch._loaded.append(watch._addresses(pointers, mask, "read"))
            return watch._load(builder, pointers, mask, *rest)

        def store(builder, pointers, value, mask, *rest):
            written = watch._addresses(pointers, mask, "written")
            bits = value.data[mask.data].view(f"u{value.data.itemsize}").astype(numpy.uint64)
            watch._stored.append(numpy.stack([written, bits]))
            return watch._store(builder, pointers, value, mask, *rest)

        def place(builder, *index):
            watch._end_program()
            return watch._place(builder, *index)

        def launch(executor, *args, **options):
            watch.launches += 1
            watch._elements = numpy.unique(numpy.concatenate([addresses_of(tensor) for tensor in tensors_of(args)]))
            watch._loaded, watch._stored, watch._programs = [], [], []
            watch._touched = watch._written = numpy.empty(0, numpy.uint64)
            watch._launch(executor, *args, **options)
            watch._end_program()
            watch._end_launch()

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", load)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", store)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_barrier", lambda builder: watch._end_interval())
        monkeypatch.setattr(interpreter.InterpreterBuilder, "set_grid_idx", place)
        monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
        # Whole storages are copied back after each launch, onto themselves on the CPU; some here are sparse and huge.
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)

    def _addresses(self, pointers, mask, what: str) -> numpy.ndarray:
        addresses = numpy.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(numpy.uint64)
        at = numpy.searchsorted(self._elements, addresses).clip(max=len(self._elements) - 1)
        outside = int((self._elements[at] != addresses).sum())
        if outside:
            raise OutOfBounds(f"{outside} of {addresses.size} elements {what} are of no argument")
        return addresses

    def _end_interval(self) -> None:
        """Close an interval between two barriers; raise Race if accesses in it depend on their order.

        They do where an element is read and written, or written twice with different values. The end of a program
        closes its last interval.
        """
        loaded = numpy.unique(numpy.concatenate([numpy.empty(0, numpy.uint64), *self._loaded]))
        stored = numpy.concatenate([numpy.empty((2, 0), numpy.uint64), *self._stored], axis=1)
        written = numpy.unique(stored[0])
        self._loaded, self._stored = [], []
        if (both := numpy.intersect1d(loaded, written)).size:
            raise Race(f"{both.size} elements are read and written without a barrier between")
        if numpy.unique(stored, axis=1).shape[1] != written.size:
            raise Race("elements are written twice, with different values, without a barrier between")
        self._touched = numpy.union1d(self._touched, numpy.union1d(loaded, written))
        self._written = numpy.union1d(self._written, written)

    def _end_program(self) -> None:
        self._end_interval()
        self._programs.append((self._touched, self._written))
        self._touched = self._written = numpy.empty(0, numpy.uint64)

    def _end_launch(self) -> None:
        touched, times = numpy.unique(numpy.concatenate([p[0] for p in self._programs]), return_counts=True)
        written = numpy.concatenate([p[1] for p in self._programs])
        if (shared := numpy.intersect1d(touched[times > 1], written)).size:
            raise Race(f"{shared.size} elements are written by one program and touched by another")


def tensors_of(args: Iterable[object]) -> Iterator[torch.Tensor]:
    """Give the tensors among arguments and their members."""
    for argument in args:
        if torch.is_tensor(argument):
            yield argument
        elif isinstance(argument, tuple):
            yield from tensors_of(argument)


def addresses_of(tensor: torch.Tensor) -> numpy.ndarray:
    """Addresses of all elements of a tensor."""
    offsets = numpy.zeros(1, numpy.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = (offsets[:, None] + numpy.arange(size, dtype=numpy.int64) * stride).ravel()
    return (tensor.data_ptr() + offsets * tensor.element_size()).astype(numpy.uint64)
