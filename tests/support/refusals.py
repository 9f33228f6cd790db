"""What is refused everywhere in the same words: the wrong values, and the error that is promised for each."""

import re
from typing import Any

import pytest
import torch


def refuses(error: type[Exception], *words: str) -> Any:
    """Expect ``error`` in the block, with all of ``words`` in its message."""
    return pytest.raises(error, match="".join(f"(?=.*{re.escape(word)})" for word in words))


FLOATING = ("float16", "bfloat16", "float32", "float64")
NOT_TENSORS: tuple[Any, ...] = (None, 3.0, [[1.0]], "x", True)
UNKNOWN_DTYPES = (
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
# Of a batch of square matrices, (B, C, C).
NOT_MATRICES = ((), (4,), (4, 4), (2, 3, 4), (2, 4, 3), (2, 0, 0), (1, 2, 4, 4))


def no_tensor(given: object) -> Any:
    """Expect the error for a value that is no tensor."""
    return refuses(TypeError, "Tensor", type(given).__name__)


def unknown_dtype(dtype: torch.dtype) -> Any:
    """Expect the error for a tensor of a dtype that the kernels do not know."""
    return refuses(TypeError, str(dtype), *FLOATING)


def no_matrices(shape: tuple[int, ...]) -> Any:
    """Expect the error for a tensor that is no batch of square matrices."""
    return refuses(ValueError, str(shape), "(B, C, C)")


def too_few(name: str, value: int) -> Any:
    """Expect the error for a count below 1."""
    return refuses(ValueError, name, str(value), "at least 1")


def no_integer(name: str, value: object) -> Any:
    """Expect the error for a count that is no int; a bool is none."""
    return refuses(TypeError, name, "int", repr(value))


def unknown_choice(name: str, value: object, *allowed: str | None) -> Any:
    """Expect the error for an option that is none of ``allowed``, which it lists."""
    return refuses(ValueError, name, repr(value), *map(repr, allowed))
