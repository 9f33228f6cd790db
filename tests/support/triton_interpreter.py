"""Where Triton's interpreter cannot run, tests that ask it for a kernel are skipped by name, with the reason.

It cannot with Triton 3.6 and numpy 2.4 or newer, for instance, which no longer turns arrays of one element into Python
numbers. On a GPU nothing needs it.
"""

from typing import NoReturn

import numpy
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import GridExecutor, InterpretedFunction


@triton.jit
def count_kernel(counted, N):
    """Let ``counted`` become N, by a loop up to an argument, as in most of the kernels."""
    total = 0
    for _ in range(0, N):
        total += 1
    tl.store(counted, total)


def why_not() -> str | None:
    """Why kernels cannot be interpreted here, as a sentence fragment; None where they can, or are not to be."""
    if not isinstance(count_kernel, InterpretedFunction):
        return None
    counted = torch.zeros(1, dtype=torch.int32)
    try:
        count_kernel[(1,)](counted, 3)
    except Exception as error:  # whatever is wrong with it
        reason = f"{type(error).__name__}: {error}"
    else:
        reason = "" if counted.item() == 3 else f"it counts to {counted.item()} and not to 3"
    versions = f"Triton {triton.__version__} cannot interpret kernels with numpy {numpy.__version__}"
    return f"{versions} ({reason})" if reason else None


def skip_what_wants_it(reason: str) -> None:
    """From now on a launch of an interpreted kernel skips the test that it is part of."""

    def skip(*args: object, **kwargs: object) -> NoReturn:
        pytest.skip(reason)

    GridExecutor.__call__ = skip
