"""Small networks of torchvision's and timm's own classes, as replace_pool takes them.

Each is a few blocks deep: what is tested is the class, its forward pass and its methods, and those do not depend on
how often a block is repeated. A test that uses one is skipped where the library is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from torch import nn


@dataclass(frozen=True)
class Case:
    """A network that can be converted: how it is made, and what tests have to know of it."""

    build: Callable[[], nn.Module]
    image: int  # height and width of its input
    pool: str  # the name of the pool in it, once converted
    classifier: str  # of the classifier
    first: str  # of the first parameter
    stages: bool = False  # whether the last stage has a stride that can be dropped
    tokens: bool = False  # whether it has a class token


def torchvision_resnet() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])


def torchvision_resnext() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4)


def torchvision_mobilenet_v2() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    setting = [[1, 16, 1, 1], [2, 24, 1, 2], [2, 32, 1, 2], [2, 32, 1, 2], [2, 48, 1, 2], [2, 64, 1, 1]]
    return models.MobileNetV2(inverted_residual_setting=setting)


def torchvision_shufflenet_v2() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return models.ShuffleNetV2([1, 1, 2], [24, 48, 64, 96, 128])


def torchvision_vision_transformer() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return models.VisionTransformer(32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=32)


def torchvision_swin() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return models.SwinTransformer([4, 4], embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4])


def torchvision_swin_v2() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    parts = models.swin_transformer
    return models.SwinTransformer(
        [4, 4],
        embed_dim=16,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=[4, 4],
        block=parts.SwinTransformerBlockV2,
        downsample_layer=parts.PatchMergingV2,
    )


def timm_resnet() -> nn.Module:
    return pytest.importorskip("timm").create_model("resnet18", layers=(1, 1, 1, 1), drop_rate=0.1)


def timm_resnext_d() -> nn.Module:
    """With squeeze-and-excitation, average pools in the shortcuts and blurred strides."""
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "seresnext50_32x4d", layers=(1, 1, 1, 1), avg_down=True, aa_layer=timm.layers.BlurPool2d, cardinality=4
    )


def timm_mobilenet_v2() -> nn.Module:
    pytest.importorskip("timm")
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    architecture = [
        ["ds_r1_k3_s1_c16"],
        ["ir_r1_k3_s2_e2_c24"],
        ["ir_r1_k3_s2_e2_c32"],
        ["ir_r1_k3_s2_e2_c32"],
        ["ir_r1_k3_s2_e2_c48"],
        ["ir_r1_k3_s1_e2_c64"],
    ]
    return EfficientNet(decode_arch_def(architecture), num_features=128)


def timm_vision_transformer(**arguments: object) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2, **arguments
    )


def timm_average_transformer() -> nn.Module:
    """Without class token, normalised behind its pool."""
    return timm_vision_transformer(class_token=False, global_pool="avg")


def timm_register_transformer() -> nn.Module:
    """With register tokens, which are not patches either."""
    return timm_vision_transformer(reg_tokens=3)


def timm_deit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "deit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2, drop_rate=0.1
    )


def timm_deit_distilled() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=1, embed_dim=24, num_heads=2
    )


SWIN = {"img_size": 32, "window_size": 4, "depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}


def timm_swin() -> nn.Module:
    return pytest.importorskip("timm").create_model("swin_tiny_patch4_window7_224", **SWIN)


def timm_swin_v2() -> nn.Module:
    return pytest.importorskip("timm").create_model("swinv2_tiny_window8_256", **SWIN)


CASES = {
    "torchvision-resnet": Case(torchvision_resnet, 64, "avgpool", "fc", "conv1.weight", stages=True),
    "torchvision-resnext": Case(torchvision_resnext, 64, "avgpool", "fc", "conv1.weight", stages=True),
    "torchvision-mobilenet_v2": Case(
        torchvision_mobilenet_v2, 64, "covariance_pool", "classifier.1", "features.0.0.weight", stages=True
    ),
    "torchvision-shufflenet_v2": Case(
        torchvision_shufflenet_v2, 64, "covariance_pool", "fc", "conv1.0.weight", stages=True
    ),
    "torchvision-vit": Case(
        torchvision_vision_transformer, 32, "covariance_pool", "heads.head", "class_token", tokens=True
    ),
    "torchvision-swin": Case(torchvision_swin, 32, "avgpool", "head", "features.0.0.weight"),
    "torchvision-swin_v2": Case(torchvision_swin_v2, 32, "avgpool", "head", "features.0.0.weight"),
    "timm-resnet": Case(timm_resnet, 64, "global_pool", "fc", "conv1.weight", stages=True),
    "timm-resnext_d": Case(timm_resnext_d, 64, "global_pool", "fc", "conv1.weight", stages=True),
    "timm-mobilenet_v2": Case(timm_mobilenet_v2, 64, "global_pool", "classifier", "conv_stem.weight", stages=True),
    "timm-vit": Case(timm_vision_transformer, 32, "covariance_pool", "head", "patch_embed.proj.weight", tokens=True),
    "timm-vit_average": Case(timm_average_transformer, 32, "covariance_pool", "head", "patch_embed.proj.weight"),
    "timm-vit_registers": Case(
        timm_register_transformer, 32, "covariance_pool", "head", "patch_embed.proj.weight", tokens=True
    ),
    "timm-deit": Case(timm_deit, 32, "covariance_pool", "head", "patch_embed.proj.weight", tokens=True),
    "timm-deit_distilled": Case(
        timm_deit_distilled, 32, "covariance_pool", "head", "patch_embed.proj.weight", tokens=True
    ),
    "timm-swin": Case(timm_swin, 32, "head.global_pool", "head.fc", "patch_embed.proj.weight"),
    "timm-swin_v2": Case(timm_swin_v2, 32, "head.global_pool", "head.fc", "patch_embed.proj.weight"),
}
