"""replace_pool on every family of models: the converted model runs, trains, pools covariances and can be kept."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels.integrations import POOLS, UnsupportedModelError, replace_pool
from gcp_kernels.integrations.classifiers import SummedClassifier
from tests.support.small_models import CASES, Case

CLASSES, DIM = 5, 6


def convert(case: Case, **options: object) -> nn.Module:
    return replace_pool(case.build(), num_classes=CLASSES, dim=DIM, **options)


def images(case: Case, b: int = 3) -> Tensor:
    return torch.randn(b, 3, case.image, case.image)


def by_name(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


every_model = by_name(list(CASES))
with_stages = by_name([name for name, case in CASES.items() if case.stages])
without_stages = by_name([name for name, case in CASES.items() if not case.stages])
with_tokens = by_name([name for name, case in CASES.items() if case.tokens])
without_tokens = by_name([name for name, case in CASES.items() if not case.tokens])


@every_model
@pytest.mark.parametrize("pool", list(POOLS))
def test_logits_and_gradients_reach_every_parameter(case: Case, pool: str) -> None:
    model = convert(case, pool=pool)
    assert type(model.get_submodule(case.pool)).__name__ == POOLS[pool]
    logits = model(images(case))
    assert logits.shape == (3, CLASSES)
    logits.square().sum().backward()
    assert model.get_parameter(case.first).grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_model
def test_the_model_itself_is_changed_and_the_rest_of_it_kept(case: Case) -> None:
    model = case.build()
    original = type(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert replace_pool(model, num_classes=CLASSES, dim=DIM) is model
    assert isinstance(model, original)
    gone = before.keys() - dict(model.named_parameters()).keys()
    classifiers = ("fc", "head", "heads", "classifier", "head_dist", "fc_norm")
    assert all(name.split(".")[0] in classifiers for name in gone), gone
    for name, parameter in model.named_parameters():
        if not name.startswith((case.pool, case.classifier, "head_dist")) and name in before:
            assert torch.equal(parameter, before[name]), name


@every_model
def test_classes_of_the_old_classifier_are_the_default(case: Case) -> None:
    model = replace_pool(case.build(), dim=DIM)
    assert model.eval()(images(case, b=1)).shape == (1, 1000)


@every_model
def test_without_classes_the_model_gives_what_it_would_classify(case: Case) -> None:
    model = replace_pool(case.build(), num_classes=0, dim=DIM).eval()
    pooled = model(images(case))
    assert pooled.dim() == 2
    assert pooled.shape[1] >= DIM * (DIM + 1) // 2


def output_with(model: nn.Module, case: Case, change, x: Tensor) -> Tensor:
    """Give the model's output when ``change`` is applied to the reduced features (B, DIM, *) that are pooled."""
    block = model.get_submodule(case.pool).conv_dr_block
    handle = block.register_forward_hook(lambda module, inputs, features: change(features))
    try:
        with torch.no_grad():
            return model(x)
    finally:
        handle.remove()


@every_model
def test_the_output_depends_on_the_covariance_and_not_on_the_mean(case: Case) -> None:
    model, x = convert(case).eval(), images(case)
    # Features of one's own: those of a deep, untrained network at 2x2 positions may all be zero.
    shape = output_shape(model, case, x)
    features = torch.randn(shape)
    mean = features.mean((2, 3), keepdim=True)
    plain = output_with(model, case, lambda _: features.clone(), x)
    shifted = output_with(model, case, lambda _: features + 3, x)
    stretched = output_with(model, case, lambda _: mean + 2 * (features - mean), x)
    torch.testing.assert_close(shifted, plain, rtol=1e-4, atol=1e-4)
    assert (stretched - plain).abs().max() > 1e-2


def output_shape(model: nn.Module, case: Case, x: Tensor) -> torch.Size:
    shapes: list[torch.Size] = []
    output_with(model, case, lambda features: shapes.append(features.shape) or features, x)
    return shapes[0]


@every_model
def test_the_pool_sees_all_patches_and_positions(case: Case) -> None:
    """4x4 patches, or positions at stride 32 (two samples of 64x64 pixels have 2x2)."""
    b, channels, height, width = output_shape(convert(case).eval(), case, images(case))
    assert (b, channels) == (3, DIM)
    assert height * width == (4 if case.stages else 16)


@every_model
def test_training_and_evaluation_reach_the_new_layers(case: Case) -> None:
    model = convert(case)
    assert all(module.training for module in model.modules())
    x = images(case)
    model(x)
    statistics = model.get_submodule(case.pool).conv_dr_block[1]
    assert statistics.num_batches_tracked == 1
    model.eval()
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(x), model(x))
    assert statistics.num_batches_tracked == 1
    frozen = replace_pool(case.build().eval(), num_classes=CLASSES, dim=DIM, keep_stride=not case.stages)
    assert not any(module.training for module in frozen.modules())


@every_model
def test_state_dict_deepcopy_and_pickle_keep_the_model(case: Case) -> None:
    model, x = convert(case), images(case)
    model(x)  # statistics that differ from the initial ones
    model.eval()
    expected = model(x)
    again = convert(case).eval()
    assert not torch.equal(again(x), expected)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), expected)
    for kept in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(kept) is type(model)
        assert torch.equal(kept(x), expected)


@every_model
def test_device_and_dtype_of_the_model_are_those_of_the_new_layers(case: Case) -> None:
    model = replace_pool(case.build().double().to("meta"), num_classes=CLASSES, dim=DIM)
    assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in model.parameters())


@with_stages
def test_dropping_the_stride_doubles_the_map(case: Case) -> None:
    model = convert(case, keep_stride=False).eval()
    assert output_shape(model, case, images(case))[2:] == (4, 4)
    logits = model.train()(images(case))
    logits.sum().backward()
    assert model.get_parameter(case.first).grad.abs().sum() > 0


@by_name(["torchvision-resnet", "timm-resnet"])
def test_14x14_positions_at_224_pixels(case: Case) -> None:
    model = convert(case, keep_stride=False).eval()
    assert output_shape(model, case, torch.randn(1, 3, 224, 224))[2:] == (14, 14)


@by_name(["torchvision-resnet", "torchvision-mobilenet_v2", "timm-resnet"])
def test_dropping_the_stride_keeps_weights_and_dilation(case: Case) -> None:
    model = case.build()
    before = {name: (module.weight.clone(), module.dilation) for name, module in convolutions(model).items()}
    strides = {name: module.stride for name, module in convolutions(model).items()}
    replace_pool(model, num_classes=CLASSES, dim=DIM, keep_stride=False)
    changed = []
    for name, module in convolutions(model).items():
        if name in before:
            assert torch.equal(module.weight, before[name][0])
            assert module.dilation == before[name][1]
            if module.stride != strides[name]:
                changed.append(name)
    assert len(changed) == (1 if "mobilenet" in type(model).__name__.lower() else 2), changed


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@without_stages
def test_a_stride_that_cannot_be_dropped_is_an_error(case: Case) -> None:
    with pytest.raises(UnsupportedModelError, match="keep_stride=False"):
        convert(case, keep_stride=False)


@with_tokens
@pytest.mark.parametrize("choice", ["sum", "concat", "ignore"])
def test_the_class_token_is_treated_as_asked(case: Case, choice: str) -> None:
    model, x = convert(case, class_token=choice).eval(), images(case)
    assert isinstance(model.get_submodule(case.classifier), SummedClassifier) == (choice == "sum")
    pooled = 21
    in_features = {"concat": 24 + pooled, "ignore": pooled}
    if choice != "sum":
        assert model.get_submodule(case.classifier).in_features == in_features[choice]
    # With zeros for the pooled vector, what is left is the class token's part.
    model.get_submodule(case.pool).register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    with torch.no_grad():
        first, second = model(x), model(images(case))
    assert torch.equal(first, second) == (choice == "ignore")


@with_tokens
def test_sum_is_the_default_and_the_sum_of_both_classifiers(case: Case) -> None:
    head = convert(case).get_submodule(case.classifier)
    assert isinstance(head, SummedClassifier)
    x = torch.randn(2, 24 + 21)
    torch.testing.assert_close(head(x), head.class_token(x[:, :24]) + head.pooled(x[:, 24:]))


def test_hidden_layers_of_a_classifier_go_with_it() -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.VisionTransformer(
        32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=32, representation_size=16, num_classes=7
    )
    replace_pool(model, dim=DIM, class_token="concat")
    assert repr(model.heads) == "Sequential(\n  (head): Linear(in_features=45, out_features=7, bias=True)\n)"
    assert model.representation_size is None
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@without_tokens
def test_a_class_token_that_is_not_there_is_an_error(case: Case) -> None:
    with pytest.raises(ValueError, match="has no class token"):
        convert(case, class_token="sum")
    convert(case, class_token="ignore")


@by_name(["torchvision-resnet", "torchvision-vit", "timm-mobilenet_v2", "timm-swin"])
def test_a_training_step_under_bfloat16_autocast(case: Case) -> None:
    assert_step_under_autocast(case, "cpu")


@pytest.mark.gpu
@every_model
def test_a_training_step_under_bfloat16_autocast_on_a_gpu(case: Case) -> None:
    assert_step_under_autocast(case, "cuda")


def assert_step_under_autocast(case: Case, device: str) -> None:
    model, x = convert(case).to(device), images(case).to(device)
    with torch.autocast(device, torch.bfloat16):
        logits = model(x)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert model.get_parameter(case.first).grad.abs().sum() > 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
