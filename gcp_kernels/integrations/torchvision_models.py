"""Conversions of torchvision's models, by class.

ResNet and Swin have their pool as a module, which is replaced. MobileNetV2 and ShuffleNetV2 pool inside their forward
pass, and the vision transformer takes its class token there; these become instances of the subclasses here, which
override that one step. The subclasses are at the top level of the module, where copying and pickling find them.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, ResNet, ShuffleNetV2, SwinTransformer, VisionTransformer

from .classifiers import join, linear_classifier, token_classifier
from .request import PoolRequest
from .stride import check_stride_can_be_dropped, drop_stride, strided_modules


class CovarianceMobileNetV2(MobileNetV2):
    """MobileNetV2 with ``covariance_pool`` between its features and its classifier."""

    covariance_pool: nn.Module

    def _forward_impl(self, x: Tensor) -> Tensor:
        return self.classifier(self.covariance_pool(self.features(x)))


class CovarianceShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 with ``covariance_pool`` between its last convolution and its classifier."""

    covariance_pool: nn.Module

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(self.covariance_pool(x))


class CovarianceVisionTransformer(VisionTransformer):
    """Vision transformer whose patch tokens go through ``covariance_pool``, joined to the class token or alone."""

    covariance_pool: nn.Module
    class_token_choice: str

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images (B, 3, image_size, image_size)."""
        x = self._process_input(x)
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        x = self.encoder(torch.cat([class_token, x], dim=1))
        return self.heads(join(x[:, 0], self.covariance_pool(x[:, 1:]), self.class_token_choice))


def convert_resnet(model: ResNet, request: PoolRequest) -> None:
    """Put the pool where ``avgpool`` was; the flattening behind it leaves the pooled vector as it is."""
    request.require_no_class_token(model)
    if not request.keep_stride:
        check_stride_can_be_dropped(model, model.layer4)
    like = model.conv1.weight
    num_classes = request.classes_of(model.fc)
    pool = request.build_pool(model.inplanes, like)
    model.avgpool = pool.train(model.training)
    model.fc = linear_classifier(pool.out_features, num_classes, like).train(model.training)
    if not request.keep_stride:
        drop_stride(model.layer4)
        model.layer4[0].stride = 1


def convert_mobilenet_v2(model: MobileNetV2, request: PoolRequest) -> None:
    """Make the model one that pools behind ``features``; the dropout in ``classifier`` stays."""
    request.require_no_class_token(model)
    # Its strides are not at a fixed index: the last block that has one begins the last stage.
    last_stage = next((block for block in reversed(model.features) if strided_modules(block)), model.features)
    if not request.keep_stride:
        check_stride_can_be_dropped(model, last_stage)
    like = model.features[0][0].weight
    num_classes = request.classes_of(_last(model.classifier))
    pool = request.build_pool(model.last_channel, like)
    dropout = [layer for layer in model.classifier.modules() if isinstance(layer, nn.Dropout)]
    model.classifier = nn.Sequential(*dropout, linear_classifier(pool.out_features, num_classes, like))
    model.classifier.train(model.training)
    model.covariance_pool = pool.train(model.training)
    model.__class__ = CovarianceMobileNetV2
    if not request.keep_stride:
        drop_stride(last_stage)


def convert_shufflenet_v2(model: ShuffleNetV2, request: PoolRequest) -> None:
    """Make the model one that pools behind ``conv5``."""
    request.require_no_class_token(model)
    if not request.keep_stride:
        check_stride_can_be_dropped(model, model.stage4)
    like = model.conv1[0].weight
    num_classes = request.classes_of(model.fc)
    pool = request.build_pool(model.conv5[0].out_channels, like)
    model.fc = linear_classifier(pool.out_features, num_classes, like).train(model.training)
    model.covariance_pool = pool.train(model.training)
    model.__class__ = CovarianceShuffleNetV2
    if not request.keep_stride:
        # The block's own ``stride`` stays 2: by it the block knows that both of its branches see all channels.
        drop_stride(model.stage4)


def convert_vision_transformer(model: VisionTransformer, request: PoolRequest) -> None:
    """Make the model one that pools the patch tokens behind the last normalisation; ``heads`` is one classifier."""
    request.require_stride_kept(model, "it has no stages")
    like = model.class_token
    num_classes = request.classes_of(_last(model.heads))
    choice = request.class_token or "sum"
    pool = request.build_pool(model.hidden_dim, like, channel_dim=-1)
    head = token_classifier(model.hidden_dim, pool.out_features, num_classes, choice, like)
    model.heads = nn.Sequential(OrderedDict(head=head)).train(model.training)
    model.num_classes = num_classes
    model.representation_size = None
    model.covariance_pool = pool.train(model.training)
    model.class_token_choice = choice
    model.__class__ = CovarianceVisionTransformer


def convert_swin(model: SwinTransformer, request: PoolRequest) -> None:
    """Put the pool where ``avgpool`` was, where the channels come first; V1 and V2 are one class."""
    request.require_no_class_token(model)
    request.require_stride_kept(model, "its stages merge patches, which changes the channels")
    like = model.features[0][0].weight
    num_classes = request.classes_of(model.head)
    # Patch merging doubles the channels from one stage to the next, and stages and mergings alternate.
    channels = model.features[0][0].out_channels * 2 ** (len(model.features) // 2 - 1)
    pool = request.build_pool(channels, like)
    model.avgpool = pool.train(model.training)
    model.head = linear_classifier(pool.out_features, num_classes, like).train(model.training)
    model.num_classes = num_classes


def _last(classifier: nn.Module) -> nn.Module:
    """Return the last layer of a classifier that may be a sequence."""
    if isinstance(classifier, nn.Sequential) and len(classifier):
        return classifier[-1]
    return classifier


CONVERSIONS: dict[type[nn.Module], Callable[..., None]] = {
    ResNet: convert_resnet,
    MobileNetV2: convert_mobilenet_v2,
    ShuffleNetV2: convert_shufflenet_v2,
    VisionTransformer: convert_vision_transformer,
    SwinTransformer: convert_swin,
}
