"""Buffers between protected pages: touching memory outside one ends the process that does it."""

from __future__ import annotations

import ctypes
import mmap

import torch

_libc = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0
_PATTERN = 0xA5


class GuardedBuffer:
    """``count`` elements of ``dtype``, full of NaN, whose last byte is followed by a protected page.

    The memory is shared with child processes. What lies between the page before and the first element holds a
    pattern, which :meth:`assert_intact` checks.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        size = count * dtype.itemsize
        body = -(-size // _PAGE) * _PAGE
        self._memory = mmap.mmap(-1, _PAGE + body + _PAGE)
        self._slack = slice(_PAGE, _PAGE + body - size)
        self._memory[self._slack] = bytes([_PATTERN]) * (body - size)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for page in (start, start + _PAGE + body):
            if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        self.elements = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._slack.stop)
        self.elements.fill_(float("nan"))

    def assert_intact(self) -> None:
        written = self._memory[self._slack].count(_PATTERN) != self._slack.stop - self._slack.start
        assert not written, "something was written before the first element"


def guarded_copy(values: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """``values`` with these strides, ending at a protected page; what lies between the elements is NaN.

    Along an axis of stride 0 the first element stands for all.
    """
    extent = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    copy = GuardedBuffer(extent, values.dtype).elements.as_strided(values.shape, strides)
    stored = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    copy[stored].copy_(values[stored])
    return copy
