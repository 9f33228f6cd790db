"""Dropping the stride of a network's last stage, so that the pool sees four times as many positions."""

from torch import nn

from .request import UnsupportedModelError


def strided_modules(stage: nn.Module) -> list[tuple[nn.Module, str]]:
    """List (parent, name) of every layer without children in ``stage`` whose stride is not 1."""
    return [
        (parent, name)
        for parent in stage.modules()
        for name, child in parent.named_children()
        if not any(child.children()) and getattr(child, "stride", 1) not in (1, (1, 1))
    ]


def check_stride_can_be_dropped(model: nn.Module, stage: nn.Module) -> None:
    """Raise unless every strided layer of ``stage`` is of a kind that :func:`drop_stride` knows."""
    strided = [getattr(parent, name) for parent, name in strided_modules(stage)]
    if not strided:
        raise ValueError(
            f"keep_stride=False: the last stage of this {type(model).__name__} has no stride to drop "
            "(it was built with a smaller output stride or with dilation)"
        )
    for layer in strided:
        if not isinstance(layer, nn.Conv2d) and not _only_reduces(layer):
            raise UnsupportedModelError(
                f"keep_stride=False is not possible for this {type(model).__name__}: its last stage has a strided "
                f"{type(layer).__name__}; known are Conv2d, AvgPool2d and BlurPool2d"
            )


def drop_stride(stage: nn.Module) -> None:
    """Set the stride of all convolutions in ``stage`` to 1, and take out pools that do nothing else than reduce.

    An average or blurring pool in a shortcut only reduces, so it is taken out, as timm builds a stage without stride.
    The weights stay what they are; nothing is dilated, as in the published iSQRT-COV networks.
    """
    for parent, name in strided_modules(stage):
        layer = getattr(parent, name)
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
        else:
            setattr(parent, name, nn.Identity().train(layer.training))


def _only_reduces(layer: nn.Module) -> bool:
    # BlurPool2d is timm's, which need not be installed.
    return isinstance(layer, nn.AvgPool2d) or type(layer).__name__ == "BlurPool2d"
