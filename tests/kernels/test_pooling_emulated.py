"""The pooling kernels' own source, executed on the CPU (support/cuda_emulation), against exact values in float64."""

from __future__ import annotations

import pytest
import torch

from tests.support import inputs, oracle, tolerances
from tests.support.accuracy import name_of
from tests.support.cuda_emulation.pooling import PLANES, SHARED_LIMITS, guarded_copy
from tests.support.emulated import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    check_covariance,
    check_pooling,
    check_strided_gradients,
    needs_emulation,
    upstream,
)
from tests.support.scaled_covariance import scales

pytestmark = [pytest.mark.same_without_gpu, needs_emulation]


# C, M, iterations, precision, output, dtype, GPU whose shared memory it must do with. Where a sample does not fit, some
# matrices are streamed: at 256 channels three of the six of the backward pass on an H100, all but one elsewhere.
SAMPLES = [
    (1, 1, 1, "fast", "full", FLOAT32, "sm_90"),
    (16, 1, 2, "fast", "triu", FLOAT16, "sm_90"),
    (16, 49, 5, "high", "full", FLOAT32, "sm_90"),
    (16, 196, 1, "high", "triu", BFLOAT16, "sm_90"),
    (30, 49, 5, "fast", "triu", FLOAT32, "sm_90"),
    (30, 196, 2, "high", "full", FLOAT32, "sm_120"),
    (64, 49, 5, "high", "triu", FLOAT32, "sm_90"),
    (64, 196, 5, "fast", "full", BFLOAT16, "sm_90"),
    (64, 1100, 2, "high", "triu", FLOAT32, "sm_90"),
    (100, 49, 2, "fast", "triu", FLOAT16, "sm_120"),
    (100, 196, 5, "high", "full", FLOAT32, "sm_120"),
    (128, 196, 5, "fast", "triu", FLOAT32, "sm_90"),
    (128, 49, 5, "high", "triu", FLOAT32, "sm_80"),
    (150, 49, 5, "fast", "full", FLOAT32, "sm_90"),
    (160, 49, 4, "fast", "triu", FLOAT16, "sm_90"),
    (176, 49, 5, "fast", "full", FLOAT32, "sm_90"),
    (176, 196, 2, "high", "triu", FLOAT32, "sm_90"),
    (196, 49, 2, "fast", "triu", FLOAT32, "sm_90"),
    (200, 49, 1, "fast", "triu", BFLOAT16, "sm_80"),
    (240, 49, 2, "fast", "triu", FLOAT32, "sm_90"),  # a warp more than block rows
    (256, 196, 5, "fast", "triu", FLOAT32, "sm_90"),
    (256, 49, 2, "high", "full", FLOAT32, "sm_80"),
    (256, 49, 2, "fast", "triu", FLOAT16, "sm_120"),
]
# C, M, precision, output, dtype, dtype of the scale, GPU.
COVARIANCES = [
    (1, 49, "high", "full", FLOAT32, FLOAT32, "sm_90"),
    (16, 1, "fast", "triu", FLOAT16, None, "sm_90"),
    (30, 49, "high", "full", FLOAT32, FLOAT64, "sm_90"),
    (64, 196, "fast", "triu", BFLOAT16, BFLOAT16, "sm_90"),
    (100, 1100, "high", "triu", FLOAT32, None, "sm_90"),
    (176, 49, "fast", "full", FLOAT16, FLOAT16, "sm_80"),
    (256, 196, "high", "triu", FLOAT32, FLOAT32, "sm_120"),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("c", "m", "n_iter", "precision", "output", "dtype", "gpu"), SAMPLES, ids=name_of)
def test_isqrt_pool(emulation, c, m, n_iter, precision, output, dtype, gpu):
    emulation.shared_limit = SHARED_LIMITS[gpu]
    check_pooling(emulation, inputs.relu_features(1 if c > 100 else 2, c, m, dtype), n_iter, precision, output)


@pytest.mark.parametrize(("c", "m", "precision", "output", "dtype", "scale_dtype", "gpu"), COVARIANCES, ids=name_of)
def test_covariance_pool(emulation, c, m, precision, output, dtype, scale_dtype, gpu):
    emulation.shared_limit = SHARED_LIMITS[gpu]
    scale = None if scale_dtype is None else scales(2, c).to(scale_dtype)
    check_covariance(emulation, inputs.relu_features(2, c, m, dtype), scale, precision, output)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("spectrum", inputs.SPECTRA)
def test_every_spectrum(emulation, spectrum, precision):
    """Fewer positions than channels, resident and streamed; rank one and a large mean among them."""
    for emulation.shared_limit in (SHARED_LIMITS["sm_90"], 45_000):
        check_pooling(emulation, inputs.SPECTRA[spectrum](1, 70, 49, FLOAT32), 5, precision, "triu")


def test_the_worst_spectrum_at_256_channels(emulation):
    """Where "high" comes nearest to what it promises: long sums, and a gradient that loses digits in the null space."""
    check_pooling(emulation, inputs.SPECTRA["rank_one_plus_noise"](1, 256, 196, FLOAT32), 5, "high", "triu")


@pytest.mark.parametrize("spectrum", inputs.SPECTRA)
def test_every_spectrum_of_a_covariance(emulation, spectrum):
    check_covariance(emulation, inputs.SPECTRA[spectrum](2, 30, 49, FLOAT32), scales(2, 30), "high", "full")


# C, M and iterations that are small enough for every combination of them.
SMALL = [(c, m, n_iter) for c in (16, 30, 64) for m in (1, 49, 196) for n_iter in (1, 2, 5)]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("c", "m", "n_iter"), SMALL)
def test_every_small_size(emulation, c, m, n_iter):
    """The dtype and the precision change with the size, so that each meets the others."""
    number = SMALL.index((c, m, n_iter))
    dtype = (FLOAT32, FLOAT16, BFLOAT16)[(number + number // 3) % 3]
    precision, output = ("fast", "high")[number % 2], ("triu", "full")[number // 2 % 2]
    check_pooling(emulation, inputs.relu_features(1, c, m, dtype), n_iter, precision, output)


@pytest.mark.parametrize("kind", ["channels last", "sliced", "expanded"])
def test_strides(emulation, kind):
    b, c, m = 3, 20, 19
    strides = {"channels last": (c * m, 1, c), "sliced": (2 * c * m * 3, 3 * m, 2), "expanded": (0, m, 1)}[kind]
    x = inputs.relu_features(b, c, m, FLOAT32)
    x = x[:1].expand(b, -1, -1) if kind == "expanded" else x
    check_pooling(emulation, guarded_copy(x, strides), 3, "high", "triu")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [FLOAT16, FLOAT32])
@pytest.mark.parametrize(("c", "precision"), [(20, "high"), (100, "fast"), (100, "high"), (150, "fast")])
def test_strides_of_the_gradient(emulation, c, precision, dtype):
    """In each form that keeps all matrices on chip: one number for all, every second one, a transposed matrix."""
    layout = emulation.layout(c, PLANES[precision], True)
    assert layout.resident == layout.matrices
    check_strided_gradients(emulation, inputs.relu_features(2, c, 19, dtype), precision)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32])
@pytest.mark.parametrize(("row", "step"), [(49, 1), (52, 1), (55, 1), (98, 2)])
def test_rows_that_begin_anywhere(emulation, row, step, dtype):
    """At each of the bytes that elements allow, and the last one ends at a protected page."""
    b, c, m = 2, 17, 49
    x = guarded_copy(inputs.relu_features(b, c, m, dtype), (c * row, row, step))
    check_pooling(emulation, x, 1, "fast", "triu")


@pytest.mark.parametrize("dtype", [FLOAT16, FLOAT32])
def test_an_outlier_in_the_first_position_costs_nothing(emulation, dtype):
    """Sums of squares are those of deviations from means, whatever is subtracted first."""
    x = inputs.relu_features(2, 20, 200, dtype)
    x[:, ::2, 0] = 2000.0
    x[:, 3] += 500.0
    _, centre, trace = emulation.isqrt_pool(x, 1, True, "fast")
    exact = x.double()
    mean = exact.mean(2, keepdim=True)
    assert tolerances.relative_error(trace[:, None], (exact - mean).square().mean(2).sum(1, True)) < 1e-6
    assert tolerances.relative_error(centre, mean[..., 0] - exact[..., 0]) < 1e-6


@pytest.mark.parametrize("form", ["resident", "streamed"])
@pytest.mark.parametrize("precision", ["fast", "high"])
def test_a_constant_sample_is_zero_and_a_nan_stays_where_it_is(emulation, form, precision):
    emulation.shared_limit = SHARED_LIMITS["sm_90"] if form == "resident" else 45_000
    x = inputs.relu_features(5, 70, 49, FLOAT32)
    x[1] = 1000.0
    x[3, 2, 7] = float("nan")
    grad = upstream(x, "triu")
    pooled, centre, trace = emulation.isqrt_pool(x, 5, True, precision)
    grad_x = emulation.isqrt_pool_backward(grad, x, centre, trace, 5, True, precision)
    for result in (pooled, grad_x):
        assert not result[1].any()
        assert result[3].isnan().all()
        assert not result[[0, 1, 2, 4]].isnan().any()
    layout = emulation.layout(70, PLANES[precision], backward=True)
    assert (layout.resident < layout.matrices) == (form == "streamed")


@pytest.mark.parametrize("scale", [3.9, -4.0, 7.5, -1e15])
def test_a_constant_channel_is_zero_whatever_its_scale(emulation, scale):
    """DropCov divides what it keeps by 1 - p; a channel that is constant cannot be divided by its root mean square."""
    x, scales = inputs.relu_features(3, 30, 49, FLOAT32), torch.full((3, 30), scale)
    x[0], x[1, 3], x[1, 7] = 0.3, 0.0, 1e-42 * x[1, 7]
    check_covariance(emulation, x[1:], scales[1:], "high", "full")
    pooled, _ = emulation.covariance_pool(x, scales, False, "high")
    assert not pooled[0].any()
    assert not pooled[1, 3].any()


@pytest.mark.parametrize("channels", [64, 256])
def test_the_order_of_threads_does_not_matter(emulation, channels):
    x = inputs.relu_features(1, channels, 49, FLOAT32)
    grad = upstream(x, "full")
    results = []
    for emulation.backwards in (False, True):
        pooled, centre, trace = emulation.isqrt_pool(x, 2, False, "fast")
        grad_x = emulation.isqrt_pool_backward(grad, x, centre, trace, 2, False, "fast")
        results.append((pooled.clone(), centre.clone(), trace.clone(), grad_x.clone()))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_sample_does_not_depend_on_the_batch(emulation):
    emulation.shared_limit = 45_000  # streamed: two CTAs for five samples
    x = inputs.relu_features(5, 70, 49, FLOAT32)
    together, _, _ = emulation.isqrt_pool(x, 3, True, "high")
    for number in range(5):
        alone, _, _ = emulation.isqrt_pool(x[number : number + 1], 3, True, "high")
        assert torch.equal(alone[0], together[number])


@pytest.mark.parametrize("streamed", [False, True])
def test_no_products_beyond_the_useful_ones(emulation, streamed):
    """At every number of blocks, p: p (p + 1) / 2 of them, p deep for each product and 2 deep for the covariance."""
    for blocks in (5, 9, 12) if streamed else range(1, 17):
        channels = 16 * blocks - 3
        emulation.shared_limit = SHARED_LIMITS["sm_90"]
        if streamed:
            emulation.shared_limit = emulation.layout(channels, 1).shared_bytes - 4
        assert (emulation.layout(channels, 1).slab_bytes > 0) == streamed
        x = inputs.relu_features(1, channels, 19, FLOAT32)
        pooled, _, _ = emulation.isqrt_pool(x, 2, False, "fast")
        tolerances.assert_promise_kept(pooled, oracle.isqrt_pool(x.double(), 2), "fast", f"{blocks} blocks")
        assert emulation.products == blocks * (blocks + 1) // 2 * (3 * blocks + 2)


@pytest.mark.parametrize(("n_iter", "forward", "backward"), [(1, 1, 1), (2, 3, 3), (3, 5, 6), (4, 8, 9), (6, 14, 15)])
def test_products_of_so_many_iterations(emulation, n_iter, forward, backward):
    """Two iterations in one take one product fewer; backward they would cost digits."""
    x = inputs.relu_features(1, 30, 19, FLOAT32)
    _, centre, trace = emulation.isqrt_pool(x, n_iter, True, "fast")
    assert emulation.products == 3 * (2 * forward + 2)
    emulation.isqrt_pool_backward(upstream(x, "triu"), x, centre, trace, n_iter, True, "fast")
    assert emulation.products == 3 * (3 * 2 * backward + 2) + 3 * 2 * 2 * 2


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_every_block_is_in_one_tile(emulation, rows):
    for blocks in range(1, {1: 5, 2: 9, 4: 17}[rows]):
        tiles, busiest = emulation.tiling(blocks, rows)
        found, quarters = [], [0, 0, 0, 0]
        for warp, (row, column, owned) in enumerate(tiles):
            quarters[warp % 4] += owned
            deep = [(i, j) for j in range(column, blocks) for i in range(row, min(row + rows, j + 1))]
            found += deep[:owned]
        assert sorted(found) == [(i, j) for i in range(blocks) for j in range(i, blocks)]
        assert max(quarters) == busiest


def test_the_busiest_quarter_has_hardly_more_than_its_share(emulation):
    """From 65 channels on; 34 of 136 blocks at 256 channels, 24 of 91 at 208, where 23 would be the least."""
    busiest = {blocks: emulation.tiling(blocks, 2 if blocks <= 8 else 4)[1] for blocks in range(5, 17)}
    assert (busiest[8], busiest[13], busiest[16]) == (10, 24, 34)
    for blocks, most in busiest.items():
        assert most <= 1.34 * blocks * (blocks + 1) / 2 / 4


@pytest.mark.parametrize("gpu", SHARED_LIMITS)
@pytest.mark.parametrize("precision", ["fast", "high"])
def test_layouts_fit(emulation, gpu, precision):
    emulation.shared_limit = SHARED_LIMITS[gpu]
    for channels in range(1, 257):
        for backward in (False, True):
            layout = emulation.layout(channels, PLANES[precision], backward)
            if layout.resident == 0:
                assert (gpu, precision) == ("sm_120", "high")
                assert channels > 192
                continue
            assert layout.shared_bytes <= SHARED_LIMITS[gpu]
            assert layout.warps <= 16
            assert (backward or layout.resident < layout.matrices) == (layout.slab_bytes > 0)
            operands = 6 if backward else 3
            assert (layout.resident < operands) == (layout.ring_columns >= 2)
            assert layout.resident < operands or layout.ring_columns == 0
    if gpu == "sm_90" and precision == "fast":
        assert emulation.layout(256, 1).resident == 3
        assert emulation.layout(160, 1, backward=True).resident == 8
        assert emulation.layout(176, 1, backward=True).resident >= 6, "every operand is on chip"
    if gpu == "sm_90" and precision == "high":
        assert emulation.layout(176, 2).resident == 3


def test_features_of_14x14_positions_are_staged_at_once(emulation):
    """In the forward pass of "fast" on an H100, whatever the channels, and at the start of the backward pass."""
    for channels in range(1, 257):
        for backward in (False, True):
            layout = emulation.layout(channels, 1, backward)
            assert layout.room >= 13 * layout.blocks * 512


def test_small_samples_have_warps_enough(emulation):
    """A warp waits for every load of its own: 8 of them and more from 49 channels on."""
    warps = {channels: emulation.layout(channels, 1).warps for channels in (16, 32, 49, 64, 65, 128, 129, 256)}
    assert warps == {16: 1, 32: 3, 49: 8, 64: 8, 65: 8, 128: 12, 129: 8, 256: 16}
    emulation.shared_limit = SHARED_LIMITS["sm_120"]
    for channels in range(49, 65):
        for planes, backward in ((1, False), (1, True), (2, False), (2, True)):
            assert emulation.layout(channels, planes, backward).warps == 8
