"""replace_pool: covariance pooling in a model of torchvision or timm."""

import importlib
from typing import Any, TypeVar

from torch import nn

from ..validation import check_module
from ..wrappers import wrapper_attribute
from .request import PoolRequest, UnsupportedModelError, pool_layers

# What can be converted, by library. Errors name these classes even where the library is not installed; the conversions
# of the same classes are in the module for the library, which imports it.
SUPPORTED = {
    "torchvision": ("ResNet", "MobileNetV2", "ShuffleNetV2", "VisionTransformer", "SwinTransformer"),
    "timm": (
        "ResNet",
        "EfficientNet",
        "VisionTransformer",
        "VisionTransformerDistilled",
        "SwinTransformer",
        "SwinTransformerV2",
    ),
}

Model = TypeVar("Model", bound=nn.Module)


def replace_pool(
    model: Model,
    num_classes: int | None = None,
    dim: int | None = 256,
    pool: str = "gcp",
    *,
    keep_stride: bool = True,
    class_token: str | None = None,
    **options: Any,
) -> Model:
    """Replace the global average pool of a torchvision or timm model by covariance pooling, in place.

    The pool becomes ``nn.GCP`` or ``nn.DropCov``, the classifier a new linear one for the pooled vector, which replaces
    hidden layers as well, such as torchvision's ``representation_size`` adds. All other parameters stay, those of a
    pre-trained backbone included. The model itself is changed and returned (``copy.deepcopy`` it before to keep the old
    one); an error leaves it as it was. It can be copied, pickled, saved by its ``state_dict`` and compiled without a
    graph break.

    Converted are, by their exact class:

    - torchvision: ``ResNet`` (ResNeXt and Wide ResNet too), ``MobileNetV2``, ``ShuffleNetV2``, ``VisionTransformer``,
      ``SwinTransformer`` (V1 and V2);
    - timm: ``ResNet`` (ResNeXt, SE-ResNet and so on too), ``EfficientNet`` (MobileNetV2 is one), ``VisionTransformer``
      (DeiT too), ``VisionTransformerDistilled``, ``SwinTransformer``, ``SwinTransformerV2``.

    Where a model pools inside its forward pass, or a method has to know of the new pool, its class becomes a subclass
    of what it was, ``CovarianceMobileNetV2`` for example. In timm models ``num_classes``, ``num_features`` (channels of
    ``forward_features``), ``head_hidden_size`` (length of the pooled vector), ``forward_head`` with ``pre_logits`` and
    ``reset_classifier`` work; ``reset_classifier(n, "avg")`` goes back to a pool of timm's (``"token"`` where there is
    a distillation token).

    In transformers the patch tokens behind the last normalisation are pooled; a normalisation that stood behind the
    pool (timm's ``fc_norm``) moves before it. The class token has its own classifier, and the outputs are summed
    ("sum", So-ViT), or it goes into one classifier together with the pooled tokens ("concat"), or it is left out
    ("ignore"). With a distillation token, both tokens get a classifier in this way and the outputs are averaged.

    Args:
        model: the model to change.
        num_classes: outputs of the new classifier; those of the old one by default. 0 for no classifier.
        dim: channels after the reduction, ``None`` for no reduction.
        pool: "gcp" (iSQRT-COV, CVPR 2018) or "dropcov" (NeurIPS 2022).
        keep_stride: ``False`` drops the stride of the last stage of a convolutional network, as the papers do for
            ResNets: 14x14 positions instead of 7x7 for images of 224x224. Nothing is dilated. One position, which a
            ResNet with its stride has left of 32x32, is refused in training.
        class_token: "sum", "concat" or "ignore"; ``None`` is "sum" where the model has a class token.
        options: further arguments of the pooling layer, ``n_iter`` or ``precision`` for example.

    Raises:
        UnsupportedModelError: no conversion exists for the class of the model, or none that drops its stride, or the
            model is wrapped (``torch.compile``, DataParallel and so on); a ``TypeError`` that names the class and what
            is supported.
        TypeError: ``model`` is no module, an argument has the wrong type, or the layer does not know an option.
        ValueError: an option is out of its range, the model has a covariance pool already, it has no class token or
            stride that could be treated as asked, or ``num_classes`` is needed because the old classifier is not
            linear.

    Example:
        >>> import torch, torchvision
        >>> from gcp_kernels.integrations import replace_pool
        >>> model = replace_pool(torchvision.models.resnet18(), num_classes=10, dim=64, keep_stride=False)
        >>> model(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> model.fc
        Linear(in_features=2080, out_features=10, bias=True)
    """
    check_module("model", model)
    if wrapper_attribute(model) is not None:
        raise UnsupportedModelError(
            f"model must not be wrapped yet, got a {type(model).__name__}, which may keep what is to be replaced "
            "(compiled code, parameters whose gradients are averaged): replace the pool of the model inside, and wrap "
            "it then"
        )
    request = PoolRequest(pool, dim, num_classes, keep_stride, class_token, options)
    for name, module in model.named_modules():
        if isinstance(module, pool_layers()):
            raise ValueError(f"the model pools covariances already: {name or 'itself'} is a {type(module).__name__}")
    library = type(model).__module__.partition(".")[0]
    if library not in SUPPORTED:
        raise _unsupported(model)
    # Importing this imports the library, which the model comes from and which is therefore there.
    conversions = importlib.import_module(f"{__package__}.{library}_models").CONVERSIONS
    if type(model) not in conversions:
        raise _unsupported(model)
    conversions[type(model)](model, request)
    return model


def _unsupported(model: nn.Module) -> UnsupportedModelError:
    kind = type(model)
    names = "; ".join(f"{library}: {', '.join(classes)}" for library, classes in SUPPORTED.items())
    return UnsupportedModelError(
        f"no conversion for a {kind.__module__}.{kind.__qualname__}. Supported are {names}; these classes "
        "themselves, not subclasses, whose forward pass may differ, and not a model wrapped in another module"
    )
