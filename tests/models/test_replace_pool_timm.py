"""timm's own interface on converted models: reset_classifier, forward_features, forward_head and the attributes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gcp_kernels.integrations import replace_pool
from gcp_kernels.nn import GCP
from tests.support.small_models import CASES, Case

CLASSES, DIM, POOLED = 5, 6, 21

TIMM = {name: case for name, case in CASES.items() if name.startswith("timm-")}

# Its two classifiers see a token each, whatever the name of the pool: so it is in timm.
DISTILLED = "timm-deit_distilled"

every_model = pytest.mark.parametrize("case", list(TIMM.values()), ids=list(TIMM))
every_other = pytest.mark.parametrize(
    "case", [case for name, case in TIMM.items() if name != DISTILLED], ids=[name for name in TIMM if name != DISTILLED]
)


def convert(case: Case, **options: object) -> nn.Module:
    return replace_pool(case.build(), num_classes=CLASSES, dim=DIM, **options).eval()


def images(case: Case) -> torch.Tensor:
    return torch.randn(2, 3, case.image, case.image)


@every_model
def test_features_and_head_compose_to_the_forward_pass(case: Case) -> None:
    model, x = convert(case), images(case)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    expected = POOLED + (24 if case.tokens else 0)
    assert pooled.shape == (2, expected)
    assert model.head_hidden_size == expected


@every_other
def test_the_classifier_works_on_what_pre_logits_gives(case: Case) -> None:
    model, x = convert(case), images(case)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))


@every_model
def test_counts_of_features_and_classes(case: Case) -> None:
    original = case.build()
    model = convert(case)
    assert model.num_features == original.num_features
    assert model.num_classes == CLASSES


@every_model
def test_reset_classifier_keeps_the_pool(case: Case) -> None:
    model, x = convert(case).train(), images(case)
    pool = model.get_submodule(case.pool)
    model.reset_classifier(10)
    assert model.get_submodule(case.pool) is pool
    assert model.num_classes == 10
    assert model.get_submodule(case.classifier).training
    assert model(x).shape == (2, 10)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.head_hidden_size)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


@every_model
def test_reset_classifier_with_a_pool_of_timm_goes_back_to_it(case: Case) -> None:
    name = "token" if case.tokens else "avg"
    model, x = convert(case), images(case)
    model.reset_classifier(10, name)
    assert not any(isinstance(module, GCP) for module in model.modules())
    original = case.build()
    original.reset_classifier(10, name)
    assert {key: tensor.shape for key, tensor in model.state_dict().items() if "norm" not in key} == {
        key: tensor.shape for key, tensor in original.state_dict().items() if "norm" not in key
    }
    assert model(x).shape == (2, 10)
    assert model.head_hidden_size == original.head_hidden_size
    for kept in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(kept(x), model(x))
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)


@every_other
def test_reset_classifier_without_pool_gives_features(case: Case) -> None:
    model, x = convert(case), images(case)
    features = model.forward_features(x)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), features)


@every_model
def test_a_model_without_classifier_can_be_converted(case: Case) -> None:
    original = case.build()
    original.reset_classifier(0)
    with pytest.raises(ValueError, match="num_classes must be given"):
        replace_pool(original, dim=DIM)
    model = replace_pool(original, num_classes=CLASSES, dim=DIM)
    assert model(images(case)).shape == (2, CLASSES)


def test_dropout_before_the_classifier_stays() -> None:
    model = convert(TIMM["timm-resnet"]).train()
    features = torch.randn(4, 512, 4, 4)
    pooled = model.forward_head(features, pre_logits=True)
    assert 0 < (pooled == 0).float().mean() < 0.5
    assert TIMM["timm-deit"].build().head_drop.p == convert(TIMM["timm-deit"]).head_drop.p == 0.1


def test_the_normalisation_behind_an_average_pool_moves_before_the_covariance() -> None:
    original = TIMM["timm-vit_average"].build()
    norm = original.fc_norm
    assert isinstance(original.norm, nn.Identity)
    model = replace_pool(original, num_classes=CLASSES, dim=DIM)
    assert model.norm is norm
    assert isinstance(model.fc_norm, nn.Identity)


def test_register_tokens_are_not_pooled() -> None:
    case = TIMM["timm-vit_registers"]
    model = convert(case)
    seen = []
    model.covariance_pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    model(images(case))
    assert model.num_prefix_tokens == 4
    assert seen == [(2, 16, 24)]


def test_a_distilled_transformer_has_two_classifiers_that_see_the_pooled_tokens() -> None:
    case = TIMM[DISTILLED]
    model, x = convert(case, class_token="concat"), images(case)
    tokens = model.forward_features(x)
    pooled = model.covariance_pool(tokens[:, 2:])
    by_class = model.head(torch.cat((tokens[:, 0], pooled), 1))
    by_distillation = model.head_dist(torch.cat((tokens[:, 1], pooled), 1))
    torch.testing.assert_close(model(x), (by_class + by_distillation) / 2)
    model.set_distilled_training()
    first, second = model.train()(x)
    assert first.shape == second.shape == (2, CLASSES)
    assert not torch.equal(first, second)


def test_feature_info_tells_the_reduction_without_stride() -> None:
    for name in ("timm-resnet", "timm-mobilenet_v2"):
        model = convert(TIMM[name], keep_stride=False)
        x = images(TIMM[name])
        for info, features in zip(model.feature_info, model.forward_intermediates(x)[1], strict=True):
            assert features.shape[1:] == (info["num_chs"], *[64 // info["reduction"]] * 2), info


@pytest.mark.parametrize(("pool", "dim", "keep_stride"), [("gcp", 256, False), ("dropcov", None, True)])
def test_efficientnet_lite0_in_full(pool: str, dim: int | None, keep_stride: bool) -> None:
    """Its convolutions are padded by the size of what they get, also where a stride was dropped."""
    original = pytest.importorskip("timm").create_model("tf_efficientnet_lite0").eval()
    model = replace_pool(copy.deepcopy(original), CLASSES, dim, pool, keep_stride=keep_stride)
    assert model.num_features == 1280
    pooled = model.head_hidden_size
    assert pooled == {256: 32896, None: 819840}[dim]
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (2, 1280, *[2 if keep_stride else 4] * 2)
    if keep_stride:
        assert torch.equal(features, original.forward_features(x))
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 16, 32 if keep_stride else 16]
    assert model.forward_head(features, pre_logits=True).shape == (2, pooled)
    assert torch.equal(model.forward_head(features), model(x))
    model.train()(x).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert model.conv_stem.weight.grad.abs().sum() > 0
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(4, "avg")
    assert model(x).shape == (2, 4)
    assert model.forward_features(x).shape == features.shape


def test_attention_pooling_is_an_error() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, global_pool="map", class_token=False, num_heads=2, embed_dim=24
    )
    with pytest.raises(TypeError, match=r"VisionTransformer with attention pooling"):
        replace_pool(model)
