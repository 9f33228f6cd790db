"""How tensor cores add up, as a model in numpy: they cut bits off that the interpreter keeps.

An instruction adds some products, which are exact, to the sum so far. Every addend is aligned to the largest of them
and cut off a few bits, guard bits, below the 24 of a float32 significand; so is the sum to float32. Nothing is rounded
to nearest, so the errors of a long sum have one sign and add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pytest
from numpy.typing import NDArray
from triton.runtime import interpreter

Matrix = NDArray[numpy.float32]


@dataclass(frozen=True)
class TensorCores:
    """Products that are added at a time, and guard bits."""

    addends: int
    guard_bits: int

    def multiply_add(self, left: Matrix, right: Matrix, total: Matrix) -> Matrix:
        """Compute total + left @ right of float32 matrices whose elements have 11 bits."""
        total = total.copy()
        room = numpy.empty((self.addends, *total.shape), numpy.float32)
        for start in range(0, left.shape[1], self.addends):
            group = slice(start, start + self.addends)
            rows, columns = left.T[group, :, None], right[group, None, :]
            products = numpy.multiply(rows, columns, out=room[: len(rows)])
            largest = numpy.maximum(numpy.maximum(products.max(axis=0), -products.min(axis=0)), numpy.abs(total))
            # Units of the last bit that is kept: all addends are whole numbers below 2^(24 + guard bits) of them.
            _, exponent = numpy.frexp(largest)
            shift = 24 + self.guard_bits - numpy.maximum(exponent, -64)
            products *= numpy.ldexp(numpy.float32(1), shift)
            units = products.astype(numpy.int32).sum(axis=0, dtype=numpy.int32)
            total = towards_zero(units + numpy.ldexp(total, shift).astype(numpy.int32), -shift)
        return total

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let interpreted kernels multiply float16 operands like this until the end of the test."""
        original = interpreter.InterpreterBuilder.create_dot

        def multiply(builder, left, right, total, *rest):
            if left.data.dtype != numpy.float16:
                return original(builder, left, right, total, *rest)
            data = self.multiply_add(left.data.astype("f4"), right.data.astype("f4"), total.data)
            return interpreter.TensorHandle(data, total.dtype.scalar)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", multiply)


def towards_zero(units: NDArray[numpy.int32], exponent: NDArray[numpy.int32]) -> Matrix:
    """Cut ``units`` 2^exponent off to the 24 bits of float32."""
    exact = units.astype(numpy.float64)
    _, size = numpy.frexp(exact)
    beyond = numpy.maximum(size - 24, 0)
    return numpy.ldexp(numpy.trunc(numpy.ldexp(exact, -beyond)), beyond + exponent).astype(numpy.float32)


# An A100 adds 8 products of float16 at a time and keeps one bit more, an H100 16 and two.
AMPERE = TensorCores(addends=8, guard_bits=1)
HOPPER = TensorCores(addends=16, guard_bits=2)
