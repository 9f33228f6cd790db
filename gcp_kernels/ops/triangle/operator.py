"""Operators triu_vec and triu_unvec: upper triangles read from, and written to, (B, C, C) matrices.

Each has a flag, which makes four linear maps. Reading the upper triangle alone is the adjoint of writing it alone.
Reading it with the mirrored elements added ("fold") is the adjoint of writing both triangles ("mirror"). So each
operator is the backward pass of the other, to any order.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..operators import Operator
from ..shapes import triangle_order, triangle_size
from . import decomposition


def _read(matrix: Tensor, fold: bool, backend: str) -> Tensor:
    b, c, _ = matrix.shape
    return matrix.new_empty(b, triangle_size(c))


def _write(vector: Tensor, mirror: bool, backend: str) -> Tensor:
    b, size = vector.shape
    c = triangle_order(size)
    return vector.new_empty(b, c, c)


def _check() -> None:
    """Check nothing: fakes and backends fail by themselves for a wrong shape."""


triu_vec = Operator("triu_vec", _read, _check)
triu_unvec = Operator("triu_unvec", _write, _check)


def _keep_options(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.both_triangles, ctx.backend = inputs


def _adjoint(other: Operator) -> Callable[..., tuple[Tensor, None, None]]:
    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return other(grad, ctx.both_triangles, ctx.backend), None, None

    return differentiate


triu_vec.differentiate_by(_adjoint(triu_unvec), _keep_options)
triu_unvec.differentiate_by(_adjoint(triu_vec), _keep_options)

triu_vec.decompose_by(decomposition.triu_vec)
triu_unvec.decompose_by(decomposition.triu_unvec)
