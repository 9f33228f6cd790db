"""GCP with each normalisation, MultiHeadCrossCovariance and TokenFusionHead: semantics, parameters, options, repr."""

import pytest
import torch
from torch import nn

import gcp_kernels
from gcp_kernels.nn import GCP, MultiHeadCrossCovariance, TokenFusionHead
from gcp_kernels.nn.normalization import HEAD_NORMALIZATIONS, NORMALIZATIONS
from tests.support import tolerances
from tests.support.refusals import refuses

pytestmark = pytest.mark.versions

# What each normalisation is, in functions of their own.
MEANINGS = {
    "isqrt": lambda x, **options: gcp_kernels.fused_gcp(x, output="full", **options),
    "none": lambda x: gcp_kernels.covariance_pool(x),
    "power": lambda x, **options: gcp_kernels.matrix_power(gcp_kernels.covariance_pool(x), **options),
    "log": lambda x, **options: gcp_kernels.matrix_log(gcp_kernels.covariance_pool(x), **options),
}
OPTIONS = [
    ("isqrt", {}),
    ("isqrt", {"n_iter": 3}),
    ("none", {}),
    ("power", {}),
    ("power", {"alpha": 0.3}),
    ("log", {}),
    ("log", {"eps": 0.1}),
]


def test_each_normalization_has_a_meaning():
    assert {*MEANINGS, "elementwise"} == set(NORMALIZATIONS)  # which has a test of its own, below
    assert {name for name, _ in OPTIONS} == set(MEANINGS)


@pytest.mark.parametrize(("normalization", "options"), OPTIONS)
def test_each_normalization_is_its_function(normalization, options):
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    expected = MEANINGS[normalization](x, **options)
    full = GCP(5, dim=None, normalization=normalization, output="full", **options)(x)
    triangle = GCP(5, dim=None, normalization=normalization, **options)(x)
    tolerances.assert_same_float64(full, expected, "full")
    tolerances.assert_same_float64(triangle, gcp_kernels.triu_vec(expected), "triangle")
    tokens = GCP(5, dim=None, normalization=normalization, channel_dim=-1, **options)(x.flatten(2).mT)
    tolerances.assert_same_float64(tokens, triangle, "tokens")


@pytest.mark.parametrize("output", ["triu", "full"])
def test_elementwise_acts_on_the_pooled_vector(output):
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    pooled = gcp_kernels.covariance_pool(x, output=output)
    ours = GCP(5, dim=None, normalization="elementwise", output=output)(x)
    assert ours.shape == pooled.shape
    expected = gcp_kernels.elementwise_power(pooled.flatten(1)).view_as(pooled)
    tolerances.assert_same_float64(ours, expected, "normalised")
    tolerances.assert_same_float64(ours.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64), "lengths")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_state_dict_is_the_same_for_all_and_a_step_trains(normalization):
    layer = GCP(12, dim=6, normalization=normalization)
    plain = GCP(12, dim=6)
    layer.load_state_dict(plain.state_dict())
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer(torch.randn(4, 12, 2, 2)).square().sum().backward()  # four positions of six channels: a singular covariance
    layer(torch.full((4, 12, 3, 3), 0.3)).sum().backward()  # a constant sample
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
    layer = GCP(12, dim=6, normalization=normalization)
    (layer(torch.randn(4, 12, 5, 5)) * torch.randn(21)).sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalization", ["power", "log", "elementwise"])
def test_half_precision_features_are_pooled_and_normalised_in_float32(normalization, dtype):
    """The covariance itself is never rounded to half precision, only the result."""
    x = torch.randn(2, 12, 9).to(dtype)
    layer = GCP(12, dim=None, normalization=normalization)
    assert torch.equal(layer(x), layer(x.float()).to(dtype))


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_training_step_under_autocast(normalization, autocast_dtype, device):
    head = nn.Sequential(pool := GCP(8, dim=4, normalization=normalization), nn.Linear(pool.out_features, 3))
    head = head.to(device)
    with torch.autocast(device, dtype=autocast_dtype):
        logits = head(torch.randn(5, 8, 6, 6, device=device))
        loss = nn.functional.cross_entropy(logits, torch.arange(5, device=device) % 3)
    loss.backward()
    assert logits.dtype == autocast_dtype
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalization": "sqrt"}, ["normalization", "'sqrt'", "'isqrt'", "'elementwise'"]),
        ({"normalization": None}, ["normalization", "None"]),
        ({"normalization": "power", "n_iter": 3}, ["n_iter", "3", "'isqrt'", "'power'"]),
        ({"normalization": "none", "alpha": 0.5}, ["alpha", "0.5", "'power'", "'none'"]),
        ({"alpha": 0.5}, ["alpha", "'power'", "'isqrt'"]),
        ({"normalization": "power", "eps": 0.1}, ["eps", "0.1", "'log'", "'power'"]),
        ({"normalization": "power", "alpha": 0.0}, ["alpha", "above 0", "0.0"]),
        ({"normalization": "log", "eps": -1.0}, ["eps", "above 0", "-1.0"]),
    ],
)
def test_options_that_do_not_fit(options, words):
    with refuses(ValueError, *words):
        GCP(8, **options)
    with pytest.raises(TypeError, match="alpha must be a number"):
        GCP(8, normalization="power", alpha="0.5")


def test_repr_names_the_normalization_and_its_option():
    def text(**options):
        return repr(GCP(8, dim=None, **options))

    assert text() == "GCP(8, dim=None, n_iter=5, out_features=36)"
    assert text(normalization="none") == "GCP(8, dim=None, normalization='none', out_features=36)"
    assert text(normalization="power") == "GCP(8, dim=None, normalization='power', alpha=0.5, out_features=36)"
    assert text(normalization="log", eps=0.1) == "GCP(8, dim=None, normalization='log', eps=0.1, out_features=36)"
    assert "elementwise" in text(normalization="elementwise")


def test_a_named_backend_has_to_serve_the_normalization_too():
    x = torch.randn(2, 5, 9, dtype=torch.float64)
    for normalization in ("power", "log"):
        ours = GCP(5, dim=None, normalization=normalization, backend="reference")(x)
        tolerances.assert_same_float64(ours, GCP(5, dim=None, normalization=normalization)(x), "reference")
        with pytest.raises(RuntimeError, match="cuda"):
            GCP(5, dim=None, normalization=normalization, backend="cuda")(x)


@pytest.mark.parametrize("normalization", HEAD_NORMALIZATIONS)
def test_cross_covariance_layer_is_its_steps(normalization):
    pool = MultiHeadCrossCovariance(10, num_heads=3, head_dim=4, normalization=normalization, dtype=torch.float64)
    tokens = torch.randn(2, 7, 10, dtype=torch.float64)
    projected = tokens @ pool.qk.weight.T  # q of head 0, q of head 1, ..., k of head 0, ...
    heads = []
    for h in range(3):
        q, k = projected[..., 4 * h : 4 * h + 4], projected[..., 12 + 4 * h : 16 + 4 * h]
        q, k = q - q.mean(1, keepdim=True), k - k.mean(1, keepdim=True)
        cov = q.mT @ k / 7
        heads.append(cov if pool.start is None else gcp_kernels.singular_value_power(cov, pool.start[h]))
    expected = torch.cat([head.flatten(1) for head in heads], dim=1)
    assert pool.out_features == expected.shape[1] == 48
    tolerances.assert_same_float64(pool(tokens), expected, "pooled")
    order = torch.randperm(7)
    tolerances.assert_same_float64(pool(tokens[:, order]), expected, "pooled in another order")


def test_cross_covariance_layer_parameters():
    pool = MultiHeadCrossCovariance(10, num_heads=3, head_dim=4)
    assert {name: tuple(value.shape) for name, value in pool.state_dict().items()} == {
        "qk.weight": (24, 10),
        "start": (3, 4),
    }
    assert list(MultiHeadCrossCovariance(10, 3, 4, "none").state_dict()) == ["qk.weight"]
    before = {name: value.clone() for name, value in pool.state_dict().items()}
    optimiser = torch.optim.SGD(pool.parameters(), lr=0.1)
    pool(torch.randn(2, 7, 10)).pow(2).sum().backward()
    optimiser.step()
    for name, value in pool.state_dict().items():
        assert not torch.equal(value, before[name]), name
    pool.reset_parameters()
    for name, value in pool.state_dict().items():
        assert not torch.equal(value, before[name]), name
    meta = MultiHeadCrossCovariance(10, 3, 4, device="meta", dtype=torch.float16)
    assert all(value.is_meta and value.dtype == torch.float16 for value in meta.parameters())


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_transformer_head_trains_a_step_under_autocast(fusion, autocast_dtype, device):
    head = TokenFusionHead(10, MultiHeadCrossCovariance(10, 2, 3), 4, fusion).to(device)
    tokens = torch.randn(5, 8, 10, device=device, requires_grad=True)
    with torch.autocast(device, dtype=autocast_dtype):
        logits = head(tokens)
        loss = nn.functional.cross_entropy(logits, torch.arange(5, device=device) % 4)
    loss.backward()
    assert logits.dtype == autocast_dtype
    for name, parameter in [*head.named_parameters(), ("tokens", tokens)]:
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_equal_tokens_have_finite_gradients():
    pool = MultiHeadCrossCovariance(10, 2, 3)
    tokens = torch.full((2, 7, 10), 0.3, requires_grad=True)
    pooled = pool(tokens)
    pooled.sum().backward()
    assert not pooled.any()
    assert all(parameter.grad.isfinite().all() for parameter in [*pool.parameters(), tokens])


@pytest.mark.parametrize(
    ("error", "options", "words"),
    [
        (ValueError, {"dim": 0}, ["dim", "0"]),
        (TypeError, {"num_heads": 2.0}, ["num_heads", "2.0"]),
        (ValueError, {"head_dim": -1}, ["head_dim", "-1"]),
        (ValueError, {"normalization": "isqrt"}, ["normalization", "'isqrt'", "'power'", "'none'"]),
        (ValueError, {"alpha": 1.5}, ["alpha", "at most 1", "1.5"]),
        (ValueError, {"alpha": 0.5, "normalization": "none"}, ["alpha", "'power'", "'none'"]),
    ],
)
def test_cross_covariance_layer_is_not_made(error, options, words):
    with refuses(error, *words):
        MultiHeadCrossCovariance(**{"dim": 10, "num_heads": 3, "head_dim": 4, **options})


@pytest.mark.parametrize("num_prefix_tokens", [1, 2])
def test_fusion_by_sum_and_by_concatenation(num_prefix_tokens):
    tokens = torch.randn(3, num_prefix_tokens + 6, 10, dtype=torch.float64)
    pool = GCP(10, dim=None, channel_dim=-1)
    pooled = pool(tokens[:, num_prefix_tokens:])
    options = {"num_prefix_tokens": num_prefix_tokens, "dtype": torch.float64}

    by_sum = TokenFusionHead(10, pool, 4, **options)
    expected = by_sum.class_classifier(tokens[:, 0]) + by_sum.pooled_classifier(pooled)
    tolerances.assert_same_float64(by_sum(tokens), expected, "sum")

    concat = TokenFusionHead(10, pool, 4, "concat", **options)
    joined = torch.cat([tokens[:, 0], pooled], dim=1)
    tolerances.assert_same_float64(concat(tokens), concat.classifier(joined), "concat")

    # The two are the same function, as the documentation says.
    with torch.no_grad():
        concat.classifier.weight.copy_(
            torch.cat([by_sum.class_classifier.weight, by_sum.pooled_classifier.weight], dim=1)
        )
        concat.classifier.bias.copy_(by_sum.class_classifier.bias + by_sum.pooled_classifier.bias)
    tolerances.assert_same_float64(concat(tokens), expected, "concat with the weights of sum")


def test_fusion_head_parameters():
    pool = MultiHeadCrossCovariance(10, 2, 3)
    assert list(TokenFusionHead(10, pool, 4).state_dict()) == [
        "pool.start",
        "pool.qk.weight",
        "class_classifier.weight",
        "class_classifier.bias",
        "pooled_classifier.weight",
        "pooled_classifier.bias",
    ]
    head = TokenFusionHead(10, pool, 4, "concat")
    assert tuple(head.state_dict()["classifier.weight"].shape) == (4, 10 + 18)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    head.reset_parameters()
    for name, value in head.state_dict().items():
        assert not torch.equal(value, before[name]), name


def test_reprs_of_the_transformer_layers():
    pool = MultiHeadCrossCovariance(10, 2, 3)
    text = (
        "MultiHeadCrossCovariance(\n  10, num_heads=2, head_dim=3, normalization='power', alpha=0.5, out_features=18\n"
    )
    assert repr(pool).startswith(text)
    assert "alpha" not in repr(MultiHeadCrossCovariance(10, 2, 3, "none"))
    head = TokenFusionHead(10, pool, 4, "concat", num_prefix_tokens=2)
    assert repr(head).startswith("TokenFusionHead(\n  10, num_classes=4, fusion='concat', num_prefix_tokens=2\n")


@pytest.mark.parametrize("shape", [(2, 10), (2, 7, 9), (2, 10, 7), (2, 0, 10), (2, 3, 7, 10)])
def test_tokens_of_another_shape(shape):
    pool = MultiHeadCrossCovariance(10, 2, 3)
    for layer in (pool, TokenFusionHead(10, pool, 4)):
        with pytest.raises(ValueError, match=r"tokens must have shape \(B, N, 10\)"):
            layer(torch.ones(shape))
        with pytest.raises(TypeError, match="Tensor"):
            layer([[[1.0]]])


def test_fusion_head_refuses_what_it_cannot_use():
    pool = MultiHeadCrossCovariance(10, 2, 3)
    with pytest.raises(ValueError, match="at least 3 tokens"):
        TokenFusionHead(10, pool, 4, num_prefix_tokens=2)(torch.ones(2, 2, 10))
    with pytest.raises(TypeError, match=r"pool .*out_features, got Identity"):
        TokenFusionHead(10, nn.Identity(), 4)
    with pytest.raises(ValueError, match=r"fusion .*'sum', 'concat', got 'mean'"):
        TokenFusionHead(10, pool, 4, "mean")
    with pytest.raises(ValueError, match="channel_dim=-1, got a GCP with channel_dim=1"):
        TokenFusionHead(10, GCP(10, None), 4)
    with pytest.raises(ValueError, match="output='triu', got output='full'"):
        TokenFusionHead(10, GCP(10, None, channel_dim=-1, output="full"), 4)
    with pytest.raises(ValueError, match="num_prefix_tokens must be at least 1, got 0"):
        TokenFusionHead(10, pool, 4, num_prefix_tokens=0)
