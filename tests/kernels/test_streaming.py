"""The extension's pooling operators with less and less shared memory: more is streamed, and no bit is different.

Where all are resident a product is shared out otherwise, and results agree within the promise. Once under emulation,
and on a GPU a thousand times, where it would show if what is copied from a slab came too early.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gcp_kernels.ops.sides import CHANNELS, POSITIONS, Side
from gcp_kernels.precision import PLANES
from tests.support import inputs, tolerances
from tests.support.cuda_emulation.operators import EmulatedOperators
from tests.support.cuda_emulation.pooling import SHARED_LIMITS
from tests.support.emulated import needs_emulation
from tests.support.extension import gpu
from tests.support.scaled_covariance import scales

ITERATIONS = 3
PRECISIONS = {planes: precision for precision, planes in PLANES.items()}
# By side and planes, for matrices of side 70: some operands resident, one, and one with the least room for the others.
# Beside each the limit of plain covariances, which take as much as the forward pass with one plane: one operand
# resident. Features are so few that all are staged at once, of the positions one block row of channels: else it would
# depend on the room how sums are grouped.
Limits = tuple[int, int]
LIMITS: dict[Side, dict[int, tuple[Limits, ...]]] = {
    CHANNELS: {
        1: ((33_000, 22_000), (22_000, 22_000), (16_000, 16_000)),
        2: ((45_000, 22_000), (36_000, 16_000), (25_000, 16_000)),
    },
    POSITIONS: {
        1: ((33_000, 22_000), (22_000, 22_000), (16_500, 16_000)),
        2: ((45_000, 22_000), (36_000, 16_000), (29_000, 16_000)),
    },
}
SHAPES = {CHANNELS: (70, 30), POSITIONS: (16, 70)}
# Matrices resident forward and backward, and block columns of the ring backward, for these limits.
RESIDENT = {
    CHANNELS: {1: [(2, 3, 3), (1, 1, 4), (1, 1, 2)], 2: [(2, 2, 4), (1, 1, 7), (1, 1, 3)]},
    POSITIONS: {1: [(2, 3, 3), (1, 1, 4), (1, 1, 2)], 2: [(2, 2, 4), (1, 1, 7), (1, 1, 4)]},
}


def operands(batch: int, channels: int, positions: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Draw features, a scale, and an upstream gradient of the triangle."""
    x = inputs.relu_features(batch, channels, positions, torch.float32)
    grad = torch.randn(batch, channels * (channels + 1) // 2)
    return x.to(device), scales(batch, channels).to(device), grad.to(device)


def results(
    operators: Any, x: Tensor, scale: Tensor, grad: Tensor, planes: int, side: Side, limits: Limits | tuple[None, None]
) -> list[Tensor]:
    """Give all that the four operators fill."""
    limit, covariance_limit = limits
    positions = side == POSITIONS
    b, c, _ = x.shape
    pooled, centre, trace, grad_x = grad.new_empty(grad.shape), x.new_empty(b, c), x.new_empty(b), torch.empty_like(x)
    operators.isqrt_pool(x, ITERATIONS, True, planes, positions, pooled, centre, trace, limit)
    operators.isqrt_pool_backward(grad, x, centre, trace, ITERATIONS, True, planes, positions, grad_x, limit)
    covariance, mean = grad.new_empty(grad.shape), x.new_empty(b, c)
    covariance_x, grad_scale = torch.empty_like(x), torch.empty_like(scale)
    operators.covariance_pool(x, scale, True, planes, covariance, mean, covariance_limit)
    operators.covariance_pool_backward(grad, x, scale, mean, True, covariance_x, grad_scale, covariance_limit)
    return [pooled, centre, trace, grad_x, covariance, mean, covariance_x, grad_scale]


def assert_streamed_as_resident(
    operators: Any, arguments: tuple[Tensor, Tensor, Tensor], planes: int, side: Side, limits: tuple[Limits, ...],
    times: int,
) -> None:  # fmt: skip
    resident = results(operators, *arguments, planes, side, (None, None))
    expected = results(operators, *arguments, planes, side, limits[0])
    for one, other in zip(expected, resident, strict=True):
        by_sample = (result.reshape(len(result), -1) for result in (one, other.cpu().double()))
        tolerances.assert_promise_kept(*by_sample, PRECISIONS[planes], "streamed against resident")
    for number in range(times):
        for limit in limits:
            streamed = results(operators, *arguments, planes, side, limit)
            assert all(map(torch.equal, streamed, expected)), f"time {number}, {limit} bytes of shared memory"


@pytest.mark.thorough
@needs_emulation
def test_emulated(emulation):
    """Two CTAs for three samples, so that slabs are used again."""
    for side, shape in SHAPES.items():
        layout = emulation.layout if side == CHANNELS else emulation.positions_layout
        size = shape[:1] if side == CHANNELS else shape
        for planes, limits in LIMITS[side].items():
            found = []
            for emulation.shared_limit, covariance_limit in limits:
                forward, backward = layout(*size, planes), layout(*size, planes, backward=True)
                found.append((forward.resident, backward.resident, backward.ring_columns))
                emulation.shared_limit = covariance_limit
                assert emulation.layout(70, 1).resident == 1
            assert found == RESIDENT[side][planes]
            emulation.shared_limit = SHARED_LIMITS["sm_90"]
            samples = operands(3, *shape, "cpu")
            assert_streamed_as_resident(EmulatedOperators(emulation), samples, planes, side, limits, 1)


class TestOnGpu:
    """``shared_limit`` is there for these tests. Slabs and results are full of NaN before each launch."""

    pytestmark = gpu

    @pytest.mark.usefixtures("poisoned_memory")
    @pytest.mark.parametrize("planes", [1, 2])
    @pytest.mark.parametrize("side", SHAPES)
    def test_a_thousand_times(self, side, planes):
        """More samples than multiprocessors; all matrices in shared memory, some, one."""
        operators = torch.ops.gcp_kernels_cuda
        for backward in (False, True):
            rest = planes, backward, SHARED_LIMITS["sm_120"]
            if side == CHANNELS:
                resident, matrices, size = operators.pooling_layout(70, *rest)
            else:
                resident, matrices, size = operators.positions_pooling_layout(*SHAPES[side], *rest)
            assert resident == matrices
            assert size > LIMITS[side][planes][0][0] or not backward
        samples = operands(300, *SHAPES[side], "cuda")
        assert_streamed_as_resident(operators, samples, planes, side, LIMITS[side][planes], 1000)

    @pytest.mark.usefixtures("poisoned_memory")
    def test_of_256_channels(self):
        """Streamed in any case; with the least shared memory one matrix is resident."""
        operators = torch.ops.gcp_kernels_cuda
        limit = SHARED_LIMITS["sm_120"]
        assert operators.pooling_layout(256, 1, True, limit)[0] == 1
        samples = operands(300, 256, 49, "cuda")
        assert_streamed_as_resident(operators, samples, 1, CHANNELS, ((limit, limit),), 100)

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("side", SHAPES)
    def test_lazy_clones_of_inputs_stay_lazy(self, side, streamed):
        """Copy-on-write inputs are only read: a mutable pointer of one would make a copy of it."""
        limits = LIMITS[side][2][-1] if streamed else (None, None)
        x, scale, grad = (torch._lazy_clone(tensor) for tensor in operands(3, *SHAPES[side], "cuda"))
        expected = results(torch.ops.gcp_kernels_cuda, x, scale, grad, 2, side, limits)
        assert all(map(torch._C._is_cow_tensor, (x, scale, grad)))
        centre, trace = torch._lazy_clone(expected[1]), torch._lazy_clone(expected[2])
        grad_x = torch.empty_like(expected[3])
        arguments = (grad, x, centre, trace, ITERATIONS, True, 2, side == POSITIONS, grad_x, limits[0])
        torch.ops.gcp_kernels_cuda.isqrt_pool_backward(*arguments)
        assert torch.equal(grad_x, expected[3])
        assert all(map(torch._C._is_cow_tensor, (x, grad, centre, trace)))

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize("side", SHAPES)
    def test_captured_in_a_graph_after_a_first_call(self, side, streamed):
        """The first call of a kernel loads its code, which must not happen during a capture."""
        limits = LIMITS[side][1][-1] if streamed else (None, None)
        arguments = operands(300, *SHAPES[side], "cuda")
        results(torch.ops.gcp_kernels_cuda, *arguments, 1, side, limits)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = results(torch.ops.gcp_kernels_cuda, *arguments, 1, side, limits)
        for argument, other in zip(arguments, operands(300, *SHAPES[side], "cuda"), strict=True):
            argument.copy_(other)
        graph.replay()
        assert all(map(torch.equal, captured, results(torch.ops.gcp_kernels_cuda, *arguments, 1, side, limits)))
