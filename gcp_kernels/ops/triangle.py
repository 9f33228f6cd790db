"""Operators triu_vec and triu_unvec: upper triangles read from, and written to, (B, C, C) matrices.

Each has a flag, and the four linear maps are closed under taking the adjoint: reading the upper triangle alone is the
adjoint of writing it alone, reading it with the mirrored elements added ("fold") that of writing both ("mirror"). So
each operator is the backward pass of the other, to any order.
"""

from typing import Any

from torch import Tensor

from gcp_kernels import backends
from gcp_kernels.shapes import triangle_order, triangle_size

from .library import define, differentiable


def _read(matrix: Tensor, fold: bool, backend: str) -> Tensor:
    return backends.select("triu_vec", matrix, backend).triu_vec(matrix, fold)


def _read_fake(matrix: Tensor, fold: bool, backend: str) -> Tensor:
    b, c, _ = matrix.shape
    return matrix.new_empty(b, triangle_size(c))


def _write(vector: Tensor, mirror: bool, backend: str) -> Tensor:
    return backends.select("triu_unvec", vector, backend).triu_unvec(vector, mirror)


def _write_fake(vector: Tensor, mirror: bool, backend: str) -> Tensor:
    b, size = vector.shape
    c = triangle_order(size)
    return vector.new_empty(b, c, c)


_read_triangle = define("triu_vec(Tensor matrix, bool fold, str backend) -> Tensor vector", _read, _read_fake)
_write_triangle = define("triu_unvec(Tensor vector, bool mirror, str backend) -> Tensor matrix", _write, _write_fake)


def _remember_options(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.both_triangles, ctx.backend = inputs


def _differentiate_read(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return triu_unvec(grad, ctx.both_triangles, ctx.backend), None, None


def _differentiate_write(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return triu_vec(grad, ctx.both_triangles, ctx.backend), None, None


triu_vec = differentiable(_read_triangle, _differentiate_read, _remember_options)
triu_unvec = differentiable(_write_triangle, _differentiate_write, _remember_options)
