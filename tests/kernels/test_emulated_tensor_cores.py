"""How the emulated tensor cores round, against what papers found of those of GPUs (cuda_emulation/tensor_cores.h)."""

from __future__ import annotations

import pytest
import torch

from tests.support.cuda_emulation.pooling import TENSOR_CORES
from tests.support.emulated import needs_emulation

pytestmark = [pytest.mark.same_without_gpu, needs_emulation]

# Addends of one element beside a sum of 1, by position along k, and what comes of them in units of 2^-24 beyond 1: a
# multiple of 2, which is what float32 can hold there.
ADDENDS = [
    ({0: -24, 1: -24}, {"V100": 0, "sm_80": 2, "sm_90": 2}),
    ({0: -25, 1: -25, 2: -25, 3: -25}, {"V100": 0, "sm_80": 0, "sm_90": 2}),
    ({0: -26, 1: -26, 2: -26, 3: -26, 4: -26, 5: -26, 6: -26, 7: -26}, {"V100": 0, "sm_80": 0, "sm_90": 0}),
    ({0: -24, 8: -24}, {"V100": 0, "sm_80": 0, "sm_90": 2}),  # in different steps where there are two or more
    ({0: -23, 1: -24, 2: -24}, {"V100": 2, "sm_80": 4, "sm_90": 4}),
]


@pytest.mark.parametrize(("addends", "expected"), ADDENDS, ids=range(len(ADDENDS)))
@pytest.mark.parametrize("sign", [1, -1])
def test_addends_are_cut_off_at_the_guard_bits(emulation, addends, expected, sign):
    """In the way of the papers named in tensor_cores.h: what is left of small addends beside a large one."""
    a, b = torch.zeros(16, 16, dtype=torch.float16), torch.zeros(16, 16, dtype=torch.float16)
    for k, exponent in addends.items():
        a[5, k], b[k, 3] = 2.0**-12, sign * 2.0 ** (exponent + 12)
    for name, units in expected.items():
        emulation.tensor_core = {"V100": (4, 0), **TENSOR_CORES}[name]
        result = emulation.multiply_add(a, b, torch.full((16, 16), float(sign)))
        assert result[5, 3].item() == sign * (1 + units * 2.0**-24), name
        result[5, 3] = sign
        assert (result == sign).all()


def test_the_exponent_of_a_product_is_that_of_its_factors(emulation):
    """1.5 x 1.5 is aligned as 2^0 and not as 2^1; an addend of 2^-24 has a guard bit beside it."""
    a, b = torch.zeros(16, 16, dtype=torch.float16), torch.zeros(16, 16, dtype=torch.float16)
    a[0, 0] = b[0, 0] = 1.5
    a[0, 1:3], b[1:3, 0] = 2.0**-12, 2.0**-12
    c = torch.zeros(16, 16)
    c[0, 0] = -1.25
    assert emulation.multiply_add(a, b, c)[0, 0].item() == 1 + 2.0**-23


@pytest.mark.parametrize(("gpu", "error"), [("sm_80", 2.6e-6), ("sm_90", 1.2e-6)])
def test_the_error_of_a_long_product(emulation, gpu, error):
    """256 products of like sign: each step takes from the sum, so that the error is as long as the sum."""
    emulation.tensor_core = TENSOR_CORES[gpu]
    a, b = torch.randn(16, 256).abs().half(), torch.randn(256, 16).abs().half()
    c = torch.zeros(16, 16)
    for k in range(0, 256, 16):
        c = emulation.multiply_add(a[:, k : k + 16], b[k : k + 16], c)
    exact = a.double() @ b.double()
    assert (c <= exact).all()
    assert ((c - exact).norm() / exact.norm()).item() == pytest.approx(error, rel=0.1)


def test_infinity_and_nan_stay_in_their_row(emulation):
    a, b = torch.ones(16, 16, dtype=torch.float16), torch.ones(16, 16, dtype=torch.float16)
    a[2, 3], a[4, 5] = float("inf"), float("nan")
    result = emulation.multiply_add(a, b, torch.zeros(16, 16))
    assert (result[2] == float("inf")).all()
    assert result[4].isnan().all()
    assert (result[[0, 1, 3, *range(5, 16)]] == 16).all()
