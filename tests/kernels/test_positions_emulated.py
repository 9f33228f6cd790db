"""The kernels of iSQRT-COV pooling on the side of the positions, executed on the CPU against values in float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from gcp_kernels.ops.cuda_device.side import side_of
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from tests.support import inputs
from tests.support.accuracy import name_of
from tests.support.cuda_emulation.pooling import PLANES, SHARED_LIMITS, guarded_copy
from tests.support.emulated import BFLOAT16, FLOAT16, FLOAT32, check_pooling, check_triangle, needs_emulation, upstream

pytestmark = [pytest.mark.same_without_gpu, needs_emulation]

# Every number of channels meets every number of positions. The other choices change with their number, so that each
# meets the others; what takes seconds under emulation ("high" beyond 100 positions) has shapes of its own below.
CHANNEL_COUNTS = (16, 30, 64, 100, 128, 176, 256, 300, 520)
POSITION_COUNTS = (1, 4, 49, 64, 100, 196, 256)
SHAPES = list(product(CHANNEL_COUNTS, POSITION_COUNTS))
# C, M, iterations, output, dtype, GPU whose shared memory it must do with: all resident, and most of it streamed.
HIGH = [
    (16, 196, 5, "full", FLOAT32, "sm_90"),
    (30, 256, 2, "triu", FLOAT16, "sm_90"),
    (100, 196, 2, "triu", BFLOAT16, "sm_80"),
    (176, 100, 5, "full", FLOAT32, "sm_120"),
    (256, 196, 2, "triu", FLOAT32, "sm_90"),
    (300, 196, 1, "triu", FLOAT32, "sm_80"),
]
# Sides of one sample in streamed form, whatever it is: some matrices in the slab, features in several panels.
SCARCE = 45_000


def strided(x: torch.Tensor, channels_last: bool) -> torch.Tensor:
    _, c, m = x.shape
    return guarded_copy(x, (c * m, 1, c)) if channels_last else x


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("c", "m"), SHAPES)
def test_every_shape(emulation, c, m):
    number = SHAPES.index((c, m))
    emulation.shared_limit = SHARED_LIMITS[("sm_90", "sm_80", "sm_120")[number % 3]]
    dtype, n_iter = (FLOAT32, FLOAT16, BFLOAT16)[(number + number // 3) % 3], (1, 2, 5, 2, 5)[number % 5]
    precision = "high" if number % 2 and m <= 100 and c <= 300 else "fast"
    x = strided(inputs.relu_features(2 if c * m < 5000 else 1, c, m, dtype), number % 4 == 0)
    check_pooling(emulation, x, n_iter, precision, ("triu", "full")[number // 2 % 2], side=POSITIONS)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("c", "m", "n_iter", "output", "dtype", "gpu"), HIGH, ids=name_of)
def test_high(emulation, c, m, n_iter, output, dtype, gpu):
    emulation.shared_limit = SHARED_LIMITS[gpu]
    check_pooling(emulation, inputs.relu_features(1, c, m, dtype), n_iter, "high", output, side=POSITIONS)


@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("n_iter", [1, 8])
def test_few_and_many_iterations(emulation, n_iter, precision):
    x = inputs.relu_features(1, 100, 49, FLOAT32)
    # The unfused computation grows as inexact as this; the promise is for fewer iterations.
    check_pooling(emulation, x, min(n_iter, 6), precision, "triu", side=POSITIONS)
    pooled, centre, trace = emulation.isqrt_pool(x, n_iter, True, precision, POSITIONS)
    grad = upstream(x, "triu")
    grad_x = emulation.isqrt_pool_backward(grad, x, centre, trace, n_iter, True, precision, POSITIONS)
    assert pooled.isfinite().all()
    assert grad_x.isfinite().all()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("spectrum", inputs.SPECTRA)
def test_every_spectrum(emulation, spectrum, precision):
    """Resident and streamed; rank one and a large mean among them."""
    for emulation.shared_limit in (SHARED_LIMITS["sm_90"], SCARCE):
        check_pooling(emulation, inputs.SPECTRA[spectrum](1, 70, 49, FLOAT32), 5, precision, "triu", side=POSITIONS)


@pytest.mark.parametrize("precision", ["fast", "high"])
def test_the_worst_spectrum_at_its_largest(emulation, precision):
    x = inputs.SPECTRA["rank_one_plus_noise"](1, 256, 196, FLOAT32)
    check_pooling(emulation, x, 5, precision, "triu", side=POSITIONS)


@pytest.mark.parametrize("form", ["resident", "streamed"])
@pytest.mark.parametrize("precision", ["fast", "high"])
def test_a_constant_sample_is_zero_and_a_nan_stays_where_it_is(emulation, form, precision):
    emulation.shared_limit = SHARED_LIMITS["sm_90"] if form == "resident" else 30_000
    x = inputs.relu_features(5, 70, 49, FLOAT32)
    x[1] = 1000.0
    x[3, 2, 7] = float("nan")
    grad = upstream(x, "triu")
    pooled, centre, trace = emulation.isqrt_pool(x, 5, True, precision, POSITIONS)
    grad_x = emulation.isqrt_pool_backward(grad, x, centre, trace, 5, True, precision, POSITIONS)
    for result in (pooled, grad_x):
        assert not result[1].any()
        assert result[3].isnan().all()
        assert not result[[0, 1, 2, 4]].isnan().any()
    layout = emulation.positions_layout(70, 49, PLANES[precision], backward=True)
    assert (layout.resident < layout.matrices) == (form == "streamed")


@pytest.mark.parametrize(("c", "m"), [(100, 49), (160, 100), (256, 196)])
def test_the_order_of_threads_does_not_matter(emulation, c, m):
    x = inputs.relu_features(1, c, m, FLOAT32)
    grad = upstream(x, "full")
    results = []
    for emulation.backwards in (False, True):
        pooled, centre, trace = emulation.isqrt_pool(x, 2, False, "fast", POSITIONS)
        grad_x = emulation.isqrt_pool_backward(grad, x, centre, trace, 2, False, "fast", POSITIONS)
        results.append((pooled.clone(), centre.clone(), trace.clone(), grad_x.clone()))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_sample_does_not_depend_on_the_batch(emulation):
    """Two CTAs for five samples, in which each takes another after the first."""
    x = inputs.relu_features(5, 70, 49, FLOAT32)
    together, centre, trace = emulation.isqrt_pool(x, 3, True, "high", POSITIONS)
    grad = upstream(x, "triu")
    gradients = emulation.isqrt_pool_backward(grad, x, centre, trace, 3, True, "high", POSITIONS)
    for number in range(5):
        one = slice(number, number + 1)
        alone, _, _ = emulation.isqrt_pool(x[one], 3, True, "high", POSITIONS)
        assert torch.equal(alone, together[one])
        rest = centre[one], trace[one].contiguous(), 3, True, "high", POSITIONS
        assert torch.equal(emulation.isqrt_pool_backward(grad[one], x[one], *rest), gradients[one])


def test_both_sides_agree(emulation):
    x = inputs.relu_features(1, 100, 90, FLOAT32)
    results = [emulation.isqrt_pool(x, 5, True, "high", side)[0] for side in (CHANNELS, POSITIONS)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
@pytest.mark.parametrize(("c", "m"), [(70, 20), (45, 100), (37, 150)])
def test_a_triangle_is_read_as_a_matrix_is(emulation, c, m, dtype):
    """In rows of 16 bytes, which begin in other places than rows of the matrix: in each sample elsewhere."""
    check_triangle(emulation, c, m, dtype)


@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize(("exponent", "rtol"), [(-126, 4e-3), (-100, 1e-5), (100, 1e-5)])
def test_a_gradient_of_any_size(emulation, exponent, rtol, precision):
    """The smallest has reciprocals that are infinite once they are lifted, and a result with few digits."""
    x = inputs.relu_features(1, 40, 20, FLOAT32)
    _, centre, trace = emulation.isqrt_pool(x, 3, True, precision, POSITIONS)
    grad = upstream(x, "triu").to(BFLOAT16).to(FLOAT32)
    one, other = (
        emulation.isqrt_pool_backward(size * grad, x, centre, trace, 3, True, precision, POSITIONS)
        for size in (1.0, 2.0**exponent)
    )
    torch.testing.assert_close(other / 2.0**exponent, one, rtol=rtol, atol=2.0 ** (-148 - exponent))


def useful(c: int, m: int, n_iter: int, backward: bool) -> int:
    """Products of blocks of one sample in "fast", symmetric results counted once."""
    rows, p = -(-c // 16), -(-m // 16)
    upper, rows_upper = p * (p + 1) // 2, rows * (rows + 1) // 2
    iteration = {1: 0, 2: 3, 3: 5, 4: 8, 5: 11}[n_iter] * upper * p
    gram = upper * rows
    if not backward:
        return gram + iteration + rows * p * p + rows_upper * p
    # H of split features; P and its transpose; each product with two of tangents; H q and z L of split factors.
    return 2 * rows * rows * p + 2 * gram + gram + 3 * iteration + 2 * 3 * rows * p * p


@pytest.mark.parametrize(
    ("c", "m", "n_iter"), [(256, 49, 5), (256, 196, 5), (128, 100, 5), *((30, 49, n) for n in (1, 2, 3, 4))]
)
def test_no_products_beyond_the_useful_ones(emulation, c, m, n_iter):
    x = inputs.relu_features(1, c, m, FLOAT32)
    _, centre, trace = emulation.isqrt_pool(x, n_iter, True, "fast", POSITIONS)
    assert emulation.products == useful(c, m, n_iter, False)
    emulation.isqrt_pool_backward(upstream(x, "triu"), x, centre, trace, n_iter, True, "fast", POSITIONS)
    assert emulation.products == useful(c, m, n_iter, True)


@pytest.mark.parametrize("gpu", SHARED_LIMITS)
@pytest.mark.parametrize("precision", ["fast", "high"])
def test_layouts_fit(emulation, gpu, precision):
    emulation.shared_limit = SHARED_LIMITS[gpu]
    # What does not fit is only what has more than one plane.
    most = 192 if (gpu, precision) == ("sm_120", "high") else 256
    for m in range(1, 257):
        for c, backward in product((1, 256, 8192), (False, True)):
            layout = emulation.positions_layout(c, m, PLANES[precision], backward)
            assert (layout.resident > 0) == (m <= most)
            if layout.resident:
                assert layout.shared_bytes <= SHARED_LIMITS[gpu]
                assert 8 <= layout.warps <= 16


def test_two_samples_share_a_multiprocessor_at_7x7(emulation):
    for backward in (False, True):
        layout = emulation.positions_layout(256, 49, 1, backward)
        assert 2 * layout.shared_bytes <= SHARED_LIMITS["sm_90"]
        assert layout.resident == layout.matrices


@pytest.mark.parametrize(
    ("c", "m", "side"),
    [
        (256, 208, POSITIONS),  # 13 of 16 blocks
        (256, 209, CHANNELS),
        (192, 144, POSITIONS),  # 9 of 12
        (96, 80, CHANNELS),  # 5 of 6
        (128, 100, CHANNELS),  # 7 of 8
        (300, 196, POSITIONS),
        (256, 49, POSITIONS),
        (128, 49, POSITIONS),
        (2048, 256, POSITIONS),
        (64, 49, CHANNELS),
        (128, 196, CHANNELS),
        (256, 196, POSITIONS),
        (256, 784, CHANNELS),
        (257, 784, POSITIONS),  # neither serves it, and this one says so
    ],
)
def test_the_side_of_a_shape(c, m, side):
    assert side_of(c, m) == side
