"""Operations as they are counted: by hand, against the products of the reference, and in torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gcp_kernels
from gcp_kernels import reference
from gcp_kernels.nn import GCP
from gcp_kernels.ops import backends, flops
from gcp_kernels.ops.decompositions import TABLE

pytestmark = pytest.mark.versions

B, N = 3, 5


def not_keeping(x):
    return torch.ops.gcp_kernels.isqrt_pool(x, N, True, False, "default", "auto")[0]


def counted(function, *tensors):
    """Count forward and backward by torch's counter."""
    given = [tensor.clone().requires_grad_() for tensor in tensors]
    with FlopCounterMode(display=False) as counter:
        value = function(*given)
        forward = counter.get_total_flops()
        value.backward(torch.randn_like(value))
    return forward, counter.get_total_flops() - forward


def test_those_of_both_sides_are_those_counted_by_hand():
    assert flops.isqrt_pool_flop_on_channels(256, 196, 5) == (
        12 * 256**3 + 256**2 * 196,
        35 * 256**3 + 2 * 256**2 * 196,
    )
    # On the side of the positions: K, z^T q and T z^T; G z, z^T H, H q and z L.
    assert flops.isqrt_pool_flop_on_positions(256, 196, 5) == (
        12 * 196**3 + (1 + 2) * 256 * 196**2 + 256**2 * 196,
        35 * 196**3 + 2 * 256**2 * 196 + (1 + 2 + 2) * 256 * 196**2,
    )
    assert flops.isqrt_pool_flop_on_positions(2, 1, 1) == (10, 18)
    # One channel and one position, where half a product is one operation: A T and the covariance; twice, and x - mu.
    assert flops.isqrt_pool_flop_on_channels(1, 1, 1) == (2, 4)
    # N = 2: A T, Z Y, Y T and the covariance; twice the three, the first two again, and the last product.
    assert flops.isqrt_pool_flop_on_channels(1, 1, 2) == (4, 6 + 2 + 2)


def test_those_of_eigenvalues_are_those_counted_by_hand():
    # V f V^T; G V, V^T of it, times differences, V again and V^T.
    assert flops.matrix_function_flop(8) == (8**3, (2 + 1 + 2 + 1) * 8**3)
    # The covariance and V f V^T; H = G V, half of V^T H, V E, V^T (x - mu) and the product of the last two.
    assert flops.spectral_pool_flop(8, 30) == (8**2 * 30 + 8**3, (2 + 1 + 2) * 8**3 + 2 * 2 * 8**2 * 30)
    # Seven vectors: R R^T, Q U and V f V^T.
    assert flops.spectral_pool_flop(30, 8) == (
        7**3 + 2 * 30 * 7**2 + 30**2 * 7,
        2 * 30**2 * 7 + (1 + 2) * 30 * 7**2 + 2 * 2 * 30 * 7 * 8,
    )


def test_what_the_torch_backend_multiplies_for_eigenvalues_is_twice_that_forward():
    x = torch.randn(B, 8, 30)
    with FlopCounterMode(display=False) as counter:
        backends.implementation("power_pool", "torch")(x, 0.5, True)
    assert counter.get_total_flops() == 2 * B * flops.spectral_pool_flop(8, 30)[0]
    x = torch.randn(B, 30, 8)
    with FlopCounterMode(display=False) as counter:
        backends.implementation("power_pool", "torch")(x, 0.5, True)
    # Q U is a whole product, and a vector of zeros stands beside the seven.
    turned_back, zero_vector = 2 * 30 * 7**2, 2 * 30**2
    forward = flops.spectral_pool_flop(30, 8)[0]
    assert counter.get_total_flops() == B * (2 * forward - turned_back + zero_vector)


def test_they_are_half_of_what_the_reference_multiplies():
    """It has whole products where half is needed, and keeps the iterates."""
    c, m = 8, 30
    x = torch.randn(B, c, m)
    forward, backward = flops.isqrt_pool_flop_on_channels(c, m, N, kept=True)
    assert flops.isqrt_pool_flop_on_channels(c, m, N) == (forward, backward + (3 * N - 4) * c**3)
    assert counted(lambda x: reference.isqrt_pool(x, N), x) == (2 * B * forward, 2 * B * backward)
    forward, backward = flops.iteration_flop(c, N, kept=True)
    cov = x @ x.mT
    assert counted(lambda cov: reference.newton_schulz_sqrt(cov, N), cov) == (2 * B * forward, 2 * B * backward)
    assert counted(reference.covariance_pool, x) == tuple(B * n for n in (2 * c**2 * m, 2 * 2 * c**2 * m))


@pytest.mark.parametrize(("c", "m"), [(8, 30), (30, 8)])
def test_torchs_counter_counts_the_side_in_use(c, m):
    x, cov = torch.randn(B, c, m), torch.randn(B, c, m) @ torch.randn(B, m, c)
    side = flops.isqrt_pool_flop_on_positions if m < c else flops.isqrt_pool_flop_on_channels
    for function, given, (forward, backward) in (
        (gcp_kernels.fused_gcp, x, side(c, m, N, kept=True)),
        (not_keeping, x, side(c, m, N)),
        (gcp_kernels.covariance_pool, x, (c**2 * m, 2 * c**2 * m)),
        (gcp_kernels.newton_schulz_sqrt, cov, flops.iteration_flop(c, N, kept=True)),
        (gcp_kernels.newton_schulz_inverse_sqrt, cov, flops.iteration_flop(c, N, of_root=False)),
        (gcp_kernels.matrix_power, cov, flops.matrix_function_flop(c)),
        (gcp_kernels.matrix_log, cov, flops.matrix_function_flop(c)),
        (GCP(c, dim=None, normalization="power"), x, flops.spectral_pool_flop(c, m)),
        (GCP(c, dim=None, normalization="log"), x, flops.spectral_pool_flop(c, m)),
    ):
        assert counted(function, given) == (B * forward, B * backward), function
    assert counted(gcp_kernels.triu_vec, cov) == (0, 0)


def test_every_operator_that_multiplies_has_a_formula():
    names = {operator.name().split("::")[1] for operator in TABLE}
    assert names - set(flops._FORMULAS) == {"triu_vec", "triu_unvec"}
