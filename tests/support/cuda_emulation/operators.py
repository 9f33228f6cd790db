"""The extension's pooling operators on CPU tensors, computed by the emulated kernels: what the Python backend calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from gcp_kernels.ops.sides import CHANNELS, POSITIONS, Side

from .pooling import PLANES, Emulation

_PRECISIONS = {planes: precision for precision, planes in PLANES.items()}


class EmulatedOperators:
    """Stands for ``torch.ops.gcp_kernels_cuda``: the same names, arguments and effects, and a list of launches."""

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation
        self.launches: list[str] = []
        self.sides: list[Side] = []  # of those of isqrt_pool

    def isqrt_pool(
        self, x: Tensor, n_iter: int, triu: bool, planes: int, positions: bool, pooled: Tensor, centre: Tensor,
        trace: Tensor, shared_limit: int | None = None,
    ) -> None:  # fmt: skip
        with self._limited(shared_limit):
            if x.shape[0]:
                self.sides.append(_side(positions))
                results = self._emulation.isqrt_pool(x, n_iter, triu, _of(planes), _side(positions))
                self._fill("isqrt_pool", (pooled, centre, trace), results)

    def isqrt_pool_backward(
        self, grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, n_iter: int, triu: bool, planes: int,
        positions: bool, grad_x: Tensor, shared_limit: int | None = None,
    ) -> None:  # fmt: skip
        with self._limited(shared_limit):
            if x.shape[0]:
                self.sides.append(_side(positions))
                rest = n_iter, triu, _of(planes), _side(positions)
                result = self._emulation.isqrt_pool_backward(grad, x, centre, trace, *rest)
                self._fill("isqrt_pool_backward", (grad_x,), (result,))

    def covariance_pool(
        self, x: Tensor, scale: Tensor | None, triu: bool, planes: int, pooled: Tensor, centre: Tensor,
        shared_limit: int | None = None,
    ) -> None:  # fmt: skip
        with self._limited(shared_limit):
            if x.shape[0]:
                results = self._emulation.covariance_pool(x, scale, triu, _of(planes))
                self._fill("covariance_pool", (pooled, centre), results)

    def covariance_pool_backward(
        self, grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, triu: bool, grad_x: Tensor,
        grad_scale: Tensor | None, shared_limit: int | None = None,
    ) -> None:  # fmt: skip
        assert (scale is None) == (grad_scale is None), "grad_scale must be given where scale is"
        with self._limited(shared_limit):
            if x.shape[0]:
                results = self._emulation.covariance_pool_backward(grad, x, scale, centre, triu)
                self._fill("covariance_pool_backward", (grad_x, grad_scale), results)

    @contextmanager
    def _limited(self, shared_limit: int | None) -> Iterator[None]:
        most = self._emulation.shared_limit
        if shared_limit is not None:
            assert 0 <= shared_limit <= most
            self._emulation.shared_limit = shared_limit
        yield
        self._emulation.shared_limit = most

    def _fill(self, name: str, outputs: Iterable[Tensor | None], results: Iterable[Tensor | None]) -> None:
        self.launches.append(name)
        for output, result in zip(outputs, results, strict=True):
            if output is None or result is None:
                assert output is result
                continue
            # The host entries demand the same of what they fill.
            assert output.shape == result.shape
            assert output.dtype == result.dtype
            assert output.stride() == result.stride() or output.numel() == 0
            output.copy_(result)


def _side(positions: bool) -> Side:
    return POSITIONS if positions else CHANNELS


def _of(planes: int) -> str:
    return _PRECISIONS[planes]
