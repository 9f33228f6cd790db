"""Every Triton kernel, in every form of launch, forward and backward, against exact values in float64.

Each size, iteration count, precision, output and dtype of a list is interpreted in two of the three forms, each form
with two thirds of the list, and run on a GPU in all of them; not all combinations.
Fresh memory is poisoned with NaN: slabs, parts of sums, and results, in which an element that no kernel writes shows.
"""

import importlib

import pytest
import torch

from tests.support import inputs
from tests.support import triton_forms as forms
from tests.support.accuracy import name_of
from tests.support.scaled_covariance import scales

FLOAT32, FLOAT16, BFLOAT16, FLOAT64 = torch.float32, torch.float16, torch.bfloat16, torch.float64

pytestmark = [pytest.mark.versions, forms.runs_here, forms.quiet, pytest.mark.usefixtures("poisoned_memory")]

# C, M, iterations, precision, output, dtype. The covariance of two positions has rank one, where the unfused
# computation is exact by luck, and what the Newton-Schulz iteration makes of rounding cannot be held against it.
FEATURES = [
    (1, 1, 1, "fast", "full", FLOAT16),
    (1, 49, 5, "high", "triu", FLOAT32),
    (3, 1, 3, "fast", "full", FLOAT32),
    (3, 2, 2, "high", "triu", FLOAT32),
    (3, 49, 7, "high", "full", FLOAT32),
    (16, 784, 2, "fast", "triu", FLOAT16),
    (16, 196, 3, "fast", "full", FLOAT32),
    (48, 49, 5, "high", "full", FLOAT32),
    (48, 49, 3, "fast", "triu", BFLOAT16),
    (64, 196, 2, "high", "triu", FLOAT16),
    (64, 2, 5, "fast", "full", FLOAT32),
    (96, 49, 1, "high", "triu", BFLOAT16),
    (128, 49, 2, "fast", "triu", FLOAT32),
    (200, 2, 1, "fast", "full", FLOAT32),
    (256, 196, 1, "fast", "triu", FLOAT32),
]
# C, iterations, precision, dtype.
MATRICES = [
    (1, 2, "high", FLOAT32),
    (3, 7, "fast", FLOAT32),
    (16, 5, "high", FLOAT32),
    (48, 3, "fast", FLOAT32),
    (48, 2, "high", FLOAT16),
    (64, 2, "fast", BFLOAT16),
    (96, 1, "high", FLOAT32),
    (128, 2, "fast", FLOAT32),
    (200, 1, "high", FLOAT32),
    (256, 1, "fast", FLOAT32),
]
# C, M, precision, dtype, dtype of the scale.
COVARIANCES = [
    (1, 49, "high", FLOAT32, FLOAT32),
    (3, 1, "fast", FLOAT32, FLOAT16),
    (3, 2, "high", FLOAT16, None),
    (16, 784, "fast", FLOAT32, FLOAT64),
    (48, 49, "high", FLOAT32, BFLOAT16),
    (48, 196, "fast", BFLOAT16, None),
    (64, 2, "high", FLOAT32, None),
    (96, 49, "fast", FLOAT16, FLOAT32),
    (128, 196, "high", FLOAT32, None),
    (200, 49, "fast", FLOAT32, None),
    (256, 49, "high", FLOAT32, FLOAT16),
]


def in_two_forms(cases):
    """Give each case the form at its place, in turn, and the next one; on a GPU, which is fast, all of them."""
    count = len(forms.FORMS)
    steps = range(2 if forms.INTERPRETED else count)
    return [(forms.FORMS[(i + step) % count], *case) for step in steps for i, case in enumerate(cases)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("form", "c", "m", "n_iter", "precision", "output", "dtype"), in_two_forms(FEATURES), ids=name_of
)
def test_features(form, c, m, n_iter, precision, output, dtype, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, c, m))
    forms.check_pooling(inputs.relu_features(2 if c <= 16 else 1, c, m, dtype), n_iter, precision, output)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("form", "c", "n_iter", "precision", "dtype"), in_two_forms(MATRICES), ids=name_of)
def test_matrices(form, c, n_iter, precision, dtype, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, c, 1))
    forms.check_root(inputs.covariance_matrices(2 if c <= 16 else 1, c, dtype), n_iter, precision)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("c", "m", "precision", "dtype", "scale_dtype"), COVARIANCES, ids=name_of)
def test_covariances(c, m, precision, dtype, scale_dtype, monkeypatch):
    plain = importlib.import_module("gcp_kernels.ops.covariance_pool.triton.launch")
    monkeypatch.setattr(plain, "COVARIANCE", forms.tiling_of(c))
    b = 2 if c <= 16 else 1
    scale = None if scale_dtype is None else scales(b, c, scale_dtype)
    for output in ("full", "triu"):
        forms.check_covariance(inputs.relu_features(b, c, m, dtype), scale, precision, output)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("spectrum", [name for name in inputs.SPECTRA if name != "relu"])
@pytest.mark.parametrize("form", forms.FORMS)
def test_spectra(form, spectrum, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, 18, 33))
    precision = ("fast", "high")[(forms.FORMS.index(form) + list(inputs.SPECTRA).index(spectrum)) % 2]
    forms.check_pooling(inputs.SPECTRA[spectrum](1, 18, 33, FLOAT32), 3, precision, "full")


@pytest.mark.parametrize("m", [17, 33, 50])
def test_a_covariance_in_several_parts(m, monkeypatch):
    """The last of them cut short; in a backward pass with other tiles than the forward pass had."""
    forward = forms.Phases(forms.Tiling(16, block_k=16, block_m=16, warps=1), splits=-(-m // 16), chunk=16)
    backward = forms.Phases(forms.Tiling(32, block_k=16, block_m=16, warps=1), splits=2, chunk=32)
    forms.force(monkeypatch, forward, backward if m > 32 else forward)
    forms.check_pooling(inputs.relu_features(1, 18, m, FLOAT32), 2, "high", "triu")


class Products:
    """Dtypes of the operands, dtype of the sum and precision asked for, of every product that is interpreted."""

    def __init__(self, monkeypatch):
        builder = pytest.importorskip("triton.runtime.interpreter").InterpreterBuilder
        self.seen = set()
        self.bits_lost = False
        multiply = builder.create_dot

        def watched(builder, left, right, total, precision, *rest):
            self.seen.add((str(left.dtype), str(right.dtype), str(total.dtype), str(precision).split(".")[-1]))
            if left.data.dtype == "float32":
                self.bits_lost |= any((operand.data.copy().view("uint32") & 0x1FFF).any() for operand in (left, right))
            return multiply(builder, left, right, total, precision, *rest)

        monkeypatch.setattr(builder, "create_dot", watched)


@pytest.mark.skipif(not forms.INTERPRETED, reason="watches the interpreter")
def test_operands_of_tensor_cores(monkeypatch):
    """The interpreter multiplies exactly what it is given; tensor cores cut what has more bits than they take."""
    products = Products(monkeypatch)
    x, grad = torch.randn(1, 5, 6), torch.randn(1, 5, 5)
    for form in forms.FORMS:
        forms.force(monkeypatch, forms.choice_of(form, 5, 6))
        forms.run(forms.pool(2, "high", "full"), x, grad)
        forms.run(forms.root(2, "fast"), inputs.covariance_matrices(1, 5, FLOAT32), grad)
    assert {seen[:3] for seen in products.seen} == {("fp16", "fp16", "fp32")}
    for precision in ("fast", "high"):
        products.seen.clear()
        forms.run(forms.covariance(None, precision), x, grad)
        assert products.seen == {("fp32", "fp32", "fp32", "TF32")}
        assert not products.bits_lost
