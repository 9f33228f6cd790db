"""Conversions of timm's models, by class.

A model, or its head, becomes an instance of a subclass here whose ``reset_classifier`` or ``reset`` knows of the pool;
timm's own would build an average pool again. Giving the name of a timm pool goes back to that pool, as it does in timm.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import ClassifierHead, SelectAdaptivePool2d
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .classifiers import join, joined_features, linear_classifier, token_classifier
from .request import PoolRequest, UnsupportedModelError
from .stride import check_stride_can_be_dropped, drop_stride, strided_modules


class _ConvolutionalNetwork(nn.Module):
    """reset_classifier of networks whose ``global_pool`` is a module."""

    classifier_name: str
    head_hidden_size: int

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make another classifier behind the same pool, or behind the pool of timm's that is named."""
        if global_pool is not None or isinstance(self.global_pool, SelectAdaptivePool2d):
            super().reset_classifier(num_classes, global_pool)  # type: ignore[misc]
            return
        self.num_classes = num_classes
        classifier = linear_classifier(self.head_hidden_size, num_classes, next(self.parameters()))
        setattr(self, self.classifier_name, classifier.train(self.training))


class CovarianceResNet(_ConvolutionalNetwork, ResNet):
    """timm's ResNet with a covariance pool as ``global_pool``."""

    classifier_name = "fc"


class CovarianceEfficientNet(_ConvolutionalNetwork, EfficientNet):
    """timm's EfficientNet, MobileNetV2 among them, with a covariance pool as ``global_pool``."""

    classifier_name = "classifier"


class CovarianceClassifierHead(ClassifierHead):
    """timm's head of hierarchical networks, with a covariance pool as ``global_pool``."""

    global_pool: nn.Module

    def reset(self, num_classes: int, pool_type: str | None = None, **others: Any) -> None:
        """Make another classifier behind the same pool, or behind the pool of timm's that is named."""
        if isinstance(self.global_pool, SelectAdaptivePool2d):
            super().reset(num_classes, pool_type, **others)
        elif pool_type is not None:
            # timm compares the name with that of the present pool, so there has to be one: that of no pool.
            self.global_pool = SelectAdaptivePool2d(pool_type="", input_fmt=self.input_fmt)
            super().reset(num_classes, pool_type, **others)
        else:
            like = torch.empty(0, device=others.get("device"), dtype=others.get("dtype"))
            self.fc = linear_classifier(self.num_features, num_classes, like).train(self.training)


class _TokenNetwork(nn.Module):
    """Pooling and reset_classifier of vision transformers; ``global_pool`` is the pool's name."""

    covariance_pool: Any
    class_token_choice: str
    global_pool: str
    embed_dim: int
    head: nn.Module

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool tokens (B, N, C) to what the classifier is given, by a pool of timm's if one is named."""
        if pool_type is not None or self.covariance_pool is None:
            return super().pool(x, pool_type)  # type: ignore[misc]
        pooled = self.covariance_pool(x[:, self.num_prefix_tokens :])
        return join(x[:, 0], pooled, self.class_token_choice)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make another classifier behind the same pool, or behind the pool of timm's that is named."""
        if global_pool is not None or self.covariance_pool is None:
            super().reset_classifier(num_classes, global_pool)  # type: ignore[misc]
            self.covariance_pool = None
            self.global_pool = global_pool or self.global_pool
            self.head_hidden_size = self.embed_dim
            return
        self.num_classes = num_classes
        self.head = self._new_head()

    def _new_head(self) -> nn.Module:
        like = next(self.parameters())
        head = token_classifier(
            self.embed_dim, self.covariance_pool.out_features, self.num_classes, self.class_token_choice, like
        )
        return head.train(self.training)


class CovarianceVisionTransformer(_TokenNetwork, VisionTransformer):
    """timm's vision transformer whose patch tokens go through ``covariance_pool``."""


class CovarianceVisionTransformerDistilled(_TokenNetwork, VisionTransformerDistilled):
    """timm's DeiT with a distillation token: both tokens have a classifier, and each sees the pooled tokens."""

    head_drop: nn.Module
    head_dist: nn.Module

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make two other classifiers behind the same pool, or behind the tokens alone, as timm has them."""
        super().reset_classifier(num_classes, global_pool)
        if self.covariance_pool is not None:
            self.head_dist = self._new_head()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the mean over both classifiers, or both outputs while training by distillation, as in timm."""
        if self.covariance_pool is None:
            return super().forward_head(x, pre_logits)
        pooled = self.covariance_pool(x[:, self.num_prefix_tokens :])
        by_class = self.head_drop(join(x[:, 0], pooled, self.class_token_choice))
        by_distillation = self.head_drop(join(x[:, 1], pooled, self.class_token_choice))
        if not pre_logits:
            by_class, by_distillation = self.head(by_class), self.head_dist(by_distillation)
            if self.distilled_training and self.training:
                return by_class, by_distillation
        return (by_class + by_distillation) / 2


def convert_resnet(model: ResNet, request: PoolRequest) -> None:
    """Put the pool where ``global_pool`` was."""
    _convert_convolutional(model, request, model.layer4, CovarianceResNet)
    if not request.keep_stride:
        model.layer4[0].stride = 1


def convert_efficientnet(model: EfficientNet, request: PoolRequest) -> None:
    """Put the pool where ``global_pool`` was; the last stage is the last of ``blocks`` that has a stride."""
    last_stage = next((stage for stage in reversed(model.blocks) if strided_modules(stage)), model.blocks)
    _convert_convolutional(model, request, last_stage, CovarianceEfficientNet)


def _convert_convolutional(
    model: Any, request: PoolRequest, last_stage: nn.Module, subclass: type[_ConvolutionalNetwork]
) -> None:
    request.require_no_class_token(model)
    if not request.keep_stride:
        check_stride_can_be_dropped(model, last_stage)
    like = next(model.parameters())
    num_classes = request.classes_of(model.get_classifier())
    pool = request.build_pool(model.num_features, like)
    model.global_pool = pool.train(model.training)
    model.head_hidden_size = pool.out_features
    model.__class__ = subclass
    model.reset_classifier(num_classes)
    if not request.keep_stride:
        drop_stride(last_stage)
        _halve_last_reduction(model)


def _halve_last_reduction(model: Any) -> None:
    """Write into ``feature_info`` what the last stages' reduction is without their stride."""
    largest = max(info["reduction"] for info in model.feature_info)
    for info in model.feature_info:
        if info["reduction"] == largest:
            info["reduction"] //= 2


def convert_vision_transformer(model: VisionTransformer, request: PoolRequest) -> None:
    """Make the model one that pools the patch tokens; a normalisation behind the pool moves before it."""
    request.require_stride_kept(model, "it has no stages")
    if not model.has_class_token:
        request.require_no_class_token(model)
    if model.attn_pool is not None:
        raise UnsupportedModelError(
            f"no conversion for a {type(model).__name__} with attention pooling; "
            "create it with global_pool='token' or 'avg'"
        )
    heads = model.get_classifier()
    num_classes = request.classes_of(heads[0] if isinstance(heads, tuple) else heads)
    pool = request.build_pool(model.embed_dim, next(model.parameters()), channel_dim=-1)
    choice = request.class_token or ("sum" if model.has_class_token else "ignore")
    if not isinstance(model.fc_norm, nn.Identity):
        model.norm, model.fc_norm = model.fc_norm, nn.Identity().train(model.training)
    model.covariance_pool = pool.train(model.training)
    model.class_token_choice = choice
    model.global_pool = request.pool
    model.head_hidden_size = joined_features(model.embed_dim, pool.out_features, choice)
    distilled = isinstance(model, VisionTransformerDistilled)
    model.__class__ = CovarianceVisionTransformerDistilled if distilled else CovarianceVisionTransformer
    model.reset_classifier(num_classes)


def convert_swin(model: SwinTransformer | SwinTransformerV2, request: PoolRequest) -> None:
    """Put the pool where the head's ``global_pool`` was; the features have their channels last."""
    request.require_no_class_token(model)
    request.require_stride_kept(model, "its stages merge patches, which changes the channels")
    num_classes = request.classes_of(model.get_classifier())
    pool = request.build_pool(model.num_features, next(model.parameters()), channel_dim=-1)
    model.head.global_pool = pool.train(model.training)
    model.head.num_features = pool.out_features
    model.head.__class__ = CovarianceClassifierHead
    model.reset_classifier(num_classes)


CONVERSIONS: dict[type[nn.Module], Callable[..., None]] = {
    ResNet: convert_resnet,
    EfficientNet: convert_efficientnet,
    VisionTransformer: convert_vision_transformer,
    VisionTransformerDistilled: convert_vision_transformer,
    SwinTransformer: convert_swin,
    SwinTransformerV2: convert_swin,
}
