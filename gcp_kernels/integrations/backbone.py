"""The trunk of a classifier, for a detector or a segmentation network that is built on the same one."""

from torch import Tensor, nn

from ..wrappers import check_unsharded, unwrapped, without_wrappers
from .replacement import SUPPORTED
from .request import UnsupportedModelError

# A vision transformer has one map of one scale: torchvision has no detector on it, and timm's fc_norm moves when the
# pool is replaced, so that the names of the trunk are not those of before.
WITH_STAGES = {
    library: tuple(name for name in classes if not name.startswith("VisionTransformer"))
    for library, classes in SUPPORTED.items()
}
# What stands behind the features in these classes, and in those that replace_pool makes of them.
_BEHIND_THE_TRUNK = ("avgpool", "global_pool", "covariance_pool", "fc", "classifier", "head")


def backbone_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a classifier's trunk under the names of the unconverted model.

    Pool, reduction and classifier are left out, and so is what wrappers add to names; batch normalisations keep their
    statistics. What remains loads strictly into the same model of torchvision or timm without its classifier, and into
    what is built on that: the body of a detector with a feature pyramid, such as
    ``torchvision.models.detection.backbone_utils.resnet_fpn_backbone`` makes of a ResNet. (torchvision's
    ``mobilenet_backbone`` keeps ``features`` alone, whose names lack ``features.``.)

    A ResNet whose last stride was dropped (``replace_pool(keep_stride=False)``, and the networks of
    :mod:`gcp_kernels.models`) has the same weights as one with it, so they load either way. But a detector that keeps
    the stride computes other features in ``layer4`` than the classifier did: half as many rows and columns, and the
    3x3 convolutions of the later blocks see twice as far. Fine-tuning has to make up for that; the maps before it are
    the same. For a detector without the stride hand the converted model itself to
    ``torchvision.models.detection.backbone_utils.BackboneWithFPN``, which takes its layers and ignores what is behind
    them; the last level of the pyramid is then as fine as the one before.

    Args:
        model: a ResNet, MobileNetV2, ShuffleNetV2 or Swin transformer of torchvision, a ResNet, EfficientNet or Swin
            transformer (V1 and V2) of timm, as it was or with the pool replaced by :func:`replace_pool`, in any dtype.
            It may be compiled or in a DataParallel, DistributedDataParallel or AveragedModel, and so may be parts of
            it.

    Returns:
        The tensors by name, in the order of the model, detached; as those of ``state_dict`` they share the memory of
        the model.

    Raises:
        UnsupportedModelError: ``model`` is of another class; a ``TypeError`` that names it and what is supported.
            Vision transformers are among these: they have no stages for a feature pyramid.
        TypeError: ``model`` is no module, or is sharded.
        ValueError: ``model`` is on the meta device.

    Example:
        >>> import torchvision
        >>> from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        >>> from gcp_kernels.integrations import backbone_state_dict, replace_pool
        >>> classifier = replace_pool(torchvision.models.resnet18(), num_classes=10, dim=64, keep_stride=False)
        >>> backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        >>> backbone.body.load_state_dict(backbone_state_dict(classifier))
        <All keys matched successfully>
    """
    check_unsharded(model)
    model = unwrapped(model)
    _check_has_stages(model)
    named = ((without_wrappers(name), tensor) for name, tensor in model.state_dict().items())
    return {name: tensor for name, tensor in named if name.partition(".")[0] not in _BEHIND_THE_TRUNK}


def _check_has_stages(model: nn.Module) -> None:
    """Raise unless the class of ``model``, or the one that it was converted from, is one of ``WITH_STAGES``."""
    kind = next(kind for kind in type(model).__mro__ if not kind.__module__.startswith(__package__))
    if kind.__name__ not in WITH_STAGES.get(kind.__module__.partition(".")[0], ()):
        names = "; ".join(f"{library}: {', '.join(classes)}" for library, classes in WITH_STAGES.items())
        raise UnsupportedModelError(
            f"no trunk is known of this model, a {kind.__module__}.{kind.__qualname__}. Known are those of {names}; "
            "these classes themselves or with the pool replaced, not subclasses, whose layers may differ"
        )
