"""DropCov as a function: the probability, values and gradients for a given mask, the mask, special cases, layouts.

What it is held against is benchmarks.speed.dropcov.written_out, the definition with two covariances, gated features,
and a probability that the host reads; and the reference.
"""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from benchmarks.speed.dropcov import POOLS
from gcp_kernels import covariance_pool, dropcov, reference, triu_vec
from tests.support import tolerances
from tests.support.accuracy import DTYPES, name_of, skip_unless_it_runs
from tests.support.dropcov_inputs import DROPCOV, features, gate_weight, of_reference, ours, probability, random_mask

NAMES = ("value", "gradient by x", "gradient by the gate weight")
WRITTEN_OUT = POOLS["written out"]
DRAWS = 16

# How unequal the channels are, as decades between the strongest and the weakest, and the p that 64 of them get.
DECADES = {"p is 0": 0.0, "p is 0.1": 0.4, "p is 0.8": 3.0}


def value_and_gradients(pool, x: Tensor, weight: Tensor, mask: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, weight)]
    value = pool(*leaves, mask)
    gradients = torch.autograd.grad(value, leaves, grad.to(value))
    for leaf, given, gradient in zip(leaves, (x, weight), gradients, strict=True):
        assert torch.equal(leaf.detach(), given), "an input was changed"
        assert gradient.dtype == given.dtype
    assert value.dtype == x.dtype
    return value.detach(), *gradients


def upstream(b: int, c: int) -> Tensor:
    return torch.randn(b, c * (c + 1) // 2, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("decades", DECADES.values(), ids=DECADES)
@pytest.mark.parametrize(("b", "c", "m"), [(1, 2, 3), (3, 5, 4), (4, 64, 49)])
@pytest.mark.parametrize("pool", [ours, of_reference])
def test_is_the_definition_written_out_in_float64(pool, b, c, m, decades, size):
    x, weight, mask, grad = features(b, c, m, decades), gate_weight(size), random_mask(b, c), upstream(b, c)
    found, truth = (value_and_gradients(f, x, weight, mask, grad) for f in (pool, WRITTEN_OUT))
    for what, actual, exact in zip(NAMES, found, truth, strict=True):
        if what == NAMES[2] and size > c:
            continue  # taps that only ever see padding have gradient zero up to rounding
        tolerances.assert_same_float64(actual, exact, what)


@pytest.mark.operation("covariance_pool")
@pytest.mark.parametrize("decades", DECADES.values(), ids=DECADES)
@pytest.mark.parametrize(("b", "c", "m"), [(4, 64, 49), (3, 32, 20)])
def test_is_as_accurate_as_written_out_in_float32(b, c, m, decades, backend, device):
    """Of several draws together.

    The gradient by the gate weight is three sums in which nearly all cancels: how much of the roundings is left of one
    draw is luck, on one processor and not on another.
    """
    skip_unless_it_runs(backend, "covariance_pool", torch.ones(b, c, m, device=device))
    draws = []
    for _ in range(DRAWS):
        x, weight, mask, grad = features(b, c, m, decades), gate_weight(), random_mask(b, c), upstream(b, c)
        x, weight, grad = x.float(), weight.float(), grad.float()

        def pool(x, weight, mask):
            return ours(x, weight, mask, backend=backend)

        found = value_and_gradients(pool, *(tensor.to(device) for tensor in (x, weight, mask, grad)))
        written = value_and_gradients(WRITTEN_OUT, x, weight, mask, grad)
        exact = value_and_gradients(of_reference, x.double(), weight.double(), mask, grad.double())
        draws.append(([tensor.cpu() for tensor in found], written, exact))
    for what, *kinds in zip(NAMES, *(zip(*kind, strict=True) for kind in zip(*draws, strict=True)), strict=True):
        # One row: a relative error is that of the norm over all draws.
        actual, unfused, truth = (torch.cat([tensor.flatten() for tensor in kind])[None] for kind in kinds)
        tolerances.assert_as_accurate(actual, unfused, truth, what)


@pytest.mark.parametrize("weight_dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_pair_of_dtypes(dtype, weight_dtype, device):
    """Features and gate weight need not agree; what comes is promised as of the covariance, rounded to its dtype."""
    x, weight = features(4, 64, 49, dtype=dtype), gate_weight(dtype=weight_dtype)
    mask, grad = random_mask(4, 64), upstream(4, 64).to(dtype)
    found = value_and_gradients(ours, *(tensor.to(device) for tensor in (x, weight, mask, grad)))
    exact = value_and_gradients(of_reference, x.double(), weight.double(), mask, grad.double())
    for what, actual, truth in zip(NAMES, found, exact, strict=True):
        # Half precision: a product of x with a gradient that was rounded to its dtype on the way is summed for these.
        half = torch.finfo(dtype).bits == 16
        tolerances.assert_promise_kept(actual, truth, "fast" if half else "high", what)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize(("c", "decades"), [(64, 0.4), (64, 3.0), (256, 0.4), (256, 1.0)])
def test_probability_is_that_of_the_definition(c, decades, dtype, device):
    x, weight = features(8, c, 49, decades, dtype), gate_weight()
    exact = reference.drop_probability(x.double(), weight).item()
    assert 0.05 < exact < 0.95
    p = probability(x.to(device), weight.to(device))
    assert p.shape == (1,)
    assert p.dtype == tolerances.accumulation_dtype(dtype)
    assert abs(p.item() - exact) <= tolerances.PROBABILITY


@pytest.mark.parametrize(
    ("dtype", "exponent"), [(torch.float64, 330), (torch.float32, 49), (torch.bfloat16, 49)], ids=str
)
def test_probability_does_not_depend_on_the_scale_of_the_features(dtype, exponent, device):
    """With a gate that does not either. Squares of row sums would overflow or vanish at these powers of two."""
    x, weight = features(8, 64, 49, 1.0, dtype).to(device), torch.zeros(1, 1, 3, device=device)
    exact = probability(x, weight).item()
    assert 0.05 < exact < 0.95
    for scale in (2.0**exponent, 2.0**-exponent):
        assert abs(probability(scale * x, weight).item() - exact) <= tolerances.PROBABILITY


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_probability_of_features_with_a_large_mean(dtype, device):
    x = (features(8, 64, 49, 1.0) + 1000).to(dtype)
    weight = torch.zeros(1, 1, 3, dtype=torch.float64)
    exact = reference.drop_probability(x.double(), weight).item()
    assert 0.05 < exact < 0.95
    assert abs(probability(x.to(device), weight.to(device)).item() - exact) <= tolerances.PROBABILITY


def test_probability_by_hand():
    """Zero weights: w = (1/2, 1/2), g = 3/2; Sigma = diag(4, 0): s = (9, 0); cos = 1/sqrt 2; log2 2 = 1: p = 0."""
    x = torch.tensor([[[2.0, -2.0], [0.0, 0.0]]], dtype=torch.float64)
    assert probability(x, torch.zeros(1, 1, 3)).item() == 0
    # 1024 channels, of which one varies: cos = 1/32, log2 = 10: p = 1 - 1/32; and with a constant sample, half of it.
    x = torch.zeros(1, 1024, 2, dtype=torch.float64)
    x[0, 5] = torch.tensor([1.0, -1.0])
    assert probability(x, torch.zeros(1, 1, 3)).item() == pytest.approx(1 - 1 / 32, abs=1e-12)
    x = torch.cat([x, torch.full_like(x, 0.3)])
    assert probability(x, torch.zeros(1, 1, 3)).item() == pytest.approx(1 - 1 / 64, abs=1e-12)


def test_probability_does_not_depend_on_what_matrix_products_are_allowed():
    x, weight = features(4, 64, 49, dtype=torch.float32), gate_weight(dtype=torch.float32)
    p = probability(x, weight)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(probability(x, weight), p)
    finally:
        torch.set_float32_matmul_precision(before)


def test_numerical_derivatives(monkeypatch, device):
    """With a p that is held, as the definition holds it: otherwise the numerical derivative would go through it."""
    held = torch.tensor(0.3, dtype=torch.float64, device=device)
    monkeypatch.setattr(DROPCOV, "drop_probability", lambda features, weight: held)
    x = torch.randn(2, 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    weight = gate_weight().to(device).requires_grad_()
    mask = torch.tensor([[True, False, True, True], [True, True, False, True]], device=device)
    for output in ("triu", "full"):

        def pool(x, weight, output=output):
            return ours(x, weight, mask, output=output)

        assert gradcheck(pool, (x, weight))
        assert gradgradcheck(pool, (x, weight))


def test_double_backward_is_that_of_the_reference(device):
    x, weight, mask = (t.to(device) for t in (features(3, 64, 9, 0.6), gate_weight(), random_mask(3, 64)))
    grad = torch.randn(3, 64 * 65 // 2, dtype=torch.float64, device=device)
    assert 0.05 < probability(x, weight) < 0.95

    def second_order(pool):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, grad)]
        gradients = torch.autograd.grad(pool(*leaves[:2], mask), leaves[:2], leaves[2], create_graph=True)
        penalty = sum((gradient.sin() ** 2).sum() for gradient in gradients)
        return *gradients, *torch.autograd.grad(penalty, leaves)

    for actual, expected in zip(second_order(ours), second_order(of_reference), strict=True):
        tolerances.assert_same_float64(actual, expected, "derivative")


def test_each_sample_drops_its_own_channels_with_probability_p(device):
    x, weight = features(64, 256, 16, 0.8).to(device), gate_weight().to(device)
    p = probability(x, weight).item()
    assert 0.2 < p < 0.8
    out = dropcov(x, weight, training=True, output="full")
    kept = out.diagonal(dim1=1, dim2=2) != 0
    assert torch.equal(out != 0, kept[:, :, None] & kept[:, None, :])
    # 16,384 draws: their mean is within 5 standard deviations of what it should be but for one seed in a million.
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.numel())
    assert len({tuple(row) for row in kept.tolist()}) == 64
    gated = covariance_pool(x, scale=1 + DROPCOV.channel_weight(x, weight)) / (1 - p) ** 2
    tolerances.assert_same_float64(out, torch.where(out != 0, gated, 0), "kept elements")


def test_seeds_and_generators_give_the_mask_again(device):
    x, weight = features(4, 64, 16, 0.8, torch.float32).to(device), gate_weight(dtype=torch.float32).to(device)

    def pooled(generator=None):
        return dropcov(x, weight, training=True, generator=generator)

    torch.manual_seed(1)
    first, second = pooled(), pooled()
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(pooled(), first)

    generator = torch.Generator(device).manual_seed(1)
    before = torch.get_rng_state()
    third = pooled(generator)
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator was used"
    assert not torch.equal(pooled(generator), third)
    assert torch.equal(pooled(generator.manual_seed(1)), third)


def test_a_drawn_mask_is_the_same_for_every_dtype_of_half_the_precision():
    """What is drawn depends on the seed and the shape, so that bfloat16 training drops what float32 training does."""
    x, weight = features(4, 64, 16, 0.8), gate_weight()
    dropped = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(3)
        dropped.append(dropcov(x.bfloat16().to(dtype), weight, training=True, output="full") == 0)
    assert torch.equal(*dropped)


def test_probability_one_gives_zeros_and_zero_gradient(device):
    """Two channels that vary against each other: their row sums are zero, and so is the cosine."""
    signs = torch.tensor([1.0, -1.0], device=device)[:, None]
    x = (signs * torch.randn(3, 1, 9, device=device)).requires_grad_()
    weight = torch.zeros(1, 1, 1, device=device, requires_grad=True)
    for mask in (None, torch.ones(3, 2, dtype=torch.bool, device=device)):
        out = dropcov(x, weight, training=True, mask=mask)
        assert not out.any()
        for gradient in torch.autograd.grad(out, (x, weight), torch.ones_like(out)):
            assert not gradient.any()


def test_probability_zero_is_the_gate_alone(device):
    x, weight = features(3, 5, 20, 0.0).to(device), gate_weight().to(device)
    assert probability(x, weight) == 0
    gate = 1 + DROPCOV.channel_weight(x, weight)
    expected = covariance_pool(x, scale=gate, output="triu")
    assert torch.equal(dropcov(x, weight, training=True), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("output", ["triu", "full"])
def test_evaluation_is_the_plain_covariance(output, dtype, device):
    x = features(3, 7, 20, dtype=dtype).to(device).requires_grad_()
    weight = gate_weight(dtype=dtype).to(device).requires_grad_()
    out, plain = dropcov(x, weight, training=False, output=output), covariance_pool(x, output=output)
    assert torch.equal(out, plain)
    gradient, of_gate = torch.autograd.grad(out, (x, weight), torch.ones_like(out), allow_unused=True)
    assert of_gate is None
    assert torch.equal(gradient, *torch.autograd.grad(plain, x, torch.ones_like(plain)))
    single = torch.randn(3, 1, 4, device=device)
    assert torch.equal(dropcov(single, weight, training=False), covariance_pool(single, output="triu"))


def test_constant_samples_give_zeros_and_no_nan(device):
    x = torch.full((3, 64, 9), 0.3, device=device)
    x[1] = features(1, 64, 9, dtype=torch.float32)[0].to(device)
    weight = gate_weight(dtype=torch.float32).to(device).requires_grad_()
    x.requires_grad_()
    out = dropcov(x, weight, training=True)
    gradients = torch.autograd.grad(out.square().sum(), (x, weight))
    assert not out[[0, 2]].any()
    assert out[1].any()
    assert not gradients[0][[0, 2]].any()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_in_one_sample_is_in_all_in_training_and_in_that_alone_in_evaluation(bad, device):
    """In training p is one number for the batch."""
    x, weight = features(3, 5, 9).to(device), gate_weight().to(device)
    x[1, 2, 3] = bad
    assert dropcov(x, weight, training=True).isnan().all()
    out = dropcov(x, weight, training=False)
    assert out[1].isnan().any()
    assert out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(training, device):
    x = torch.empty(0, 5, 3, 3, device=device, requires_grad=True)
    weight = gate_weight(dtype=torch.float32).to(device).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = dropcov(x, weight, training=training)
        gradients = torch.autograd.grad(out.sum(), (x, weight), allow_unused=not training)
    assert out.shape == (0, 15)
    assert probability(x.detach().flatten(2), weight.detach()) == 1, "as the reference: no cosine, r = 0"
    assert gradients[0].shape == x.shape
    if training:
        assert torch.equal(gradients[1], torch.zeros_like(weight))


def layouts(x: Tensor) -> dict[str, tuple[Tensor, int]]:
    """Lay (B, C, H, W) features out otherwise in memory, or move the channels; give where they are then."""
    b, c, h, w = x.shape
    padded = torch.full((b + 1, c, h + 2, w), 7.0, dtype=x.dtype, device=x.device)
    padded[1:, :, 1:-1] = x
    return {
        "channels_last": (x.contiguous(memory_format=torch.channels_last), 1),
        "tokens": (x.flatten(2).mT.contiguous(), -1),
        "view of tokens": (x.flatten(2).mT, 2),
        "transposed": (x.transpose(2, 3).contiguous().transpose(2, 3), 1),
        "part of a larger tensor": (padded[1:, :, 1:-1], 1),
        "last of four": (x.movedim(1, -1), -1),
        "flat": (x.flatten(2), 1),
        "batch last in memory": (x.movedim(0, -1).contiguous().movedim(-1, 0), 1),
    }


@pytest.mark.parametrize("layout", list(layouts(torch.zeros(1, 2, 2, 2))))
def test_any_layout(layout, device):
    image = features(3, 64, 20).view(3, 64, 4, 5).to(device)
    weight, mask, grad = (t.to(device) for t in (gate_weight(), random_mask(3, 64), upstream(3, 64)))
    exact = value_and_gradients(of_reference, image.flatten(2), weight, mask, grad)
    x, channel_dim = layouts(image)[layout]
    leaves = [x.detach().requires_grad_(), weight.requires_grad_()]
    out = ours(*leaves, mask, channel_dim=channel_dim)
    gradients = torch.autograd.grad(out, leaves, grad)
    channels_first = gradients[0].movedim(channel_dim, 1).flatten(2)
    for what, actual, truth in zip(NAMES, (out, channels_first, gradients[1]), exact, strict=True):
        tolerances.assert_same_float64(actual, truth, what)


def test_expanded_features_and_a_transposed_upstream_gradient(device):
    x, weight = features(1, 16, 20).to(device), gate_weight().to(device)
    mask, grad = (
        random_mask(4, 16).to(device),
        torch.randn(16, 16, 4, dtype=torch.float64, device=device).permute(2, 1, 0),
    )
    exact = value_and_gradients(lambda *given: reference.dropcov(*given), x.expand(4, 16, 20), weight, mask, grad)
    leaves = [x.expand(4, 16, 20).requires_grad_(), weight.requires_grad_()]
    out = ours(*leaves, mask, output="full")
    for what, actual, truth in zip(NAMES, (out, *torch.autograd.grad(out, leaves, grad)), exact, strict=True):
        tolerances.assert_same_float64(actual, truth, what)


def test_two_outputs_agree(device):
    x, weight, mask = (t.to(device) for t in (features(3, 9, 20), gate_weight(), random_mask(3, 9)))
    assert torch.equal(triu_vec(ours(x, weight, mask, output="full")), ours(x, weight, mask))


def test_two_runs_are_bitwise_equal(several_threads, device):
    x, weight = features(8, 64, 49, dtype=torch.float32).to(device), gate_weight(dtype=torch.float32).to(device)
    mask, grad = random_mask(8, 64).to(device), upstream(8, 64).to(device)
    first, second = (value_and_gradients(ours, x, weight, mask, grad) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_reference_backend(device):
    x, weight, mask, grad = (
        t.to(device) for t in (features(3, 9, 20), gate_weight(), random_mask(3, 9), upstream(3, 9))
    )
    found = value_and_gradients(lambda *given: ours(*given, backend="reference"), x, weight, mask, grad)
    exact = value_and_gradients(of_reference, x, weight, mask, grad)
    assert all(map(torch.equal, found, exact))
