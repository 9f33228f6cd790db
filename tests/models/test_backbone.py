"""The trunk of a classifier goes to a detector: names, values, and what the detector makes of them."""

import pytest
import torch
from torch import nn

from gcp_kernels import models
from gcp_kernels.integrations import UnsupportedModelError, backbone_state_dict, replace_pool
from gcp_kernels.integrations.backbone import WITH_STAGES
from tests.support.small_models import CASES, Case, timm_average_transformer, torchvision_vision_transformer
from tests.support.torchvision_stand_in import WITHOUT_OPERATORS

STAGED = {name: case for name, case in CASES.items() if "vit" not in name and "deit" not in name}
LEVELS = ("layer1", "layer2", "layer3", "layer4")


def without_classifier(case: Case) -> nn.Module:
    model = case.build()
    model.set_submodule(case.classifier, nn.Identity())
    return model


@pytest.mark.parametrize("case", STAGED.values(), ids=STAGED)
def test_a_converted_model_has_the_trunk_that_it_had(case: Case) -> None:
    model = case.build()
    before = backbone_state_dict(model)
    replace_pool(model, dim=8, num_classes=3, keep_stride=not case.stages)
    state = backbone_state_dict(model)
    assert list(state) == list(before) == list(without_classifier(case).state_dict())
    for name, tensor in state.items():
        assert tensor.data_ptr() == before[name].data_ptr()
        assert not tensor.requires_grad
    other = without_classifier(case)
    other.load_state_dict(state)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[name])


def trained(arch: str, **options: object) -> nn.Module:
    """Build a classifier whose batch normalisations have seen images, in evaluation mode and float64."""
    pytest.importorskip("torchvision.models")
    model = getattr(models, arch)("gcp", num_classes=5, dim=8, **options).double()
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    return model.eval()


def levels_of(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the classifier, and return what its stages gave."""
    maps: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda _, __, output, name=name: maps.update({name: output}))
        for name in LEVELS
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return maps


@pytest.mark.parametrize(("arch", "keep_stride"), [("resnet18", True), ("resnet18", False), ("resnet50", False)])
@torch.no_grad()
def test_the_body_of_a_feature_pyramid_has_the_features_of_the_classifier(arch: str, keep_stride: bool) -> None:
    classifier = trained(arch, keep_stride=keep_stride)
    utils = pytest.importorskip("torchvision.models.detection.backbone_utils")
    backbone = utils.resnet_fpn_backbone(backbone_name=arch, weights=None, norm_layer=nn.BatchNorm2d).double().eval()
    backbone.body.load_state_dict(backbone_state_dict(classifier))
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected, found = levels_of(classifier, images), dict(zip(LEVELS, backbone.body(images).values(), strict=True))
    same = LEVELS if keep_stride else LEVELS[:3]
    assert all(torch.equal(found[name], expected[name]) for name in same)
    if keep_stride:
        return
    # With the stride that the classifier dropped the detector has a quarter of the positions, and other features.
    assert found["layer4"].shape[-2:] == (2, 2)
    assert expected["layer4"].shape[-2:] == (4, 4)
    assert not torch.allclose(found["layer4"], expected["layer4"][..., ::2, ::2])
    channels = [maps.shape[1] for maps in expected.values()]
    unstrided = utils.BackboneWithFPN(classifier, {name: name for name in LEVELS}, channels, 8).double()
    for name, maps in unstrided.body(images).items():
        assert torch.equal(maps, expected[name])
    # torchvision's detectors freeze batch normalisation, by a class of theirs that keeps no count of batches.
    frozen = utils.resnet_fpn_backbone(backbone_name=arch, weights=None).double()
    frozen.body.load_state_dict(backbone_state_dict(classifier))
    torch.testing.assert_close(frozen.body(images)["2"], expected["layer3"])


@pytest.mark.skipif(bool(WITHOUT_OPERATORS), reason=WITHOUT_OPERATORS)
@torch.no_grad()
def test_faster_rcnn_detects_with_the_trunk_of_a_classifier() -> None:
    classifier = trained("resnet18", keep_stride=True)
    detection = pytest.importorskip("torchvision.models.detection")
    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    detector = detection.FasterRCNN(backbone, 3, min_size=64, max_size=64).double().eval()
    detector.backbone.body.load_state_dict(backbone_state_dict(classifier))
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    normalised = detector.transform(images)[0].tensors
    expected = levels_of(classifier, normalised)
    for found, name in zip(detector.backbone.body(normalised).values(), LEVELS, strict=True):
        torch.testing.assert_close(found, expected[name])
    (result,) = detector(list(images))
    assert len(result["boxes"]) == len(result["scores"]) == len(result["labels"]) > 0
    assert result["scores"].isfinite().all()


def test_what_has_no_known_trunk_is_refused_by_name_with_what_has_one() -> None:
    models_ = pytest.importorskip("torchvision.models")

    class Subclass(models_.ResNet):
        pass

    refused = {
        "torch.nn.modules.linear.Linear": nn.Linear(2, 2),
        "torchvision.models.densenet.DenseNet": nn.DataParallel(models_.DenseNet(block_config=(1, 1))),
        "Subclass": Subclass(models_.resnet.BasicBlock, [1, 1, 1, 1]),
        "torchvision.models.vision_transformer.VisionTransformer": replace_pool(
            torchvision_vision_transformer(), dim=4, num_classes=2
        ),
        "timm.models.vision_transformer.VisionTransformer": timm_average_transformer(),
    }
    for name, model in refused.items():
        with pytest.raises(UnsupportedModelError) as raised:
            backbone_state_dict(model)
        for word in (name, *WITH_STAGES, *WITH_STAGES["torchvision"], *WITH_STAGES["timm"]):
            assert word in str(raised.value)
    with pytest.raises(ValueError, match=r"'conv1\.weight' of the model must hold values"):
        backbone_state_dict(CASES["torchvision-resnet"].build().to("meta"))
