"""Ready networks of the papers: torchvision's ResNets with covariance pooling, or with average pooling to compare with.

Reduction and stride are the published ones. iSQRT-COV (CVPR 2018) reduces to 256 channels and DropCov (NeurIPS 2022)
to 128; no other number of channels gives the parameters that its paper states, 29.6 M for ResNet-34, 32.0 M for
ResNet-50 and 51.0 M for ResNet-101. Both drop the stride of the last stage, so that 14x14 positions are pooled at 224
px. No weights are downloaded; :func:`gcp_kernels.integrations.load_isqrt_checkpoint` loads published ones.
"""

from typing import Any, Literal

from torch import nn

from .extras import import_torchvision
from .integrations import replace_pool
from .nn.poolings import BASELINE, PUBLISHED_POOLINGS
from .validation import check_at_least, check_choice

__all__ = ["resnet18", "resnet34", "resnet50", "resnet101"]

Dim = int | Literal["published"] | None


def resnet18(pool: str = "gcp", num_classes: int = 1000, dim: Dim = "published", **options: Any) -> nn.Module:
    """Build ResNet-18 as published with ``pool``; see :func:`resnet50`.

    Example:
        >>> import torch
        >>> from gcp_kernels.models import resnet18
        >>> model = resnet18(num_classes=10, dim=64)
        >>> model(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    return _resnet("resnet18", pool, num_classes, dim, options)


def resnet34(pool: str = "gcp", num_classes: int = 1000, dim: Dim = "published", **options: Any) -> nn.Module:
    """Build ResNet-34 as published with ``pool``; see :func:`resnet50`.

    Example:
        >>> from gcp_kernels.models import resnet34
        >>> resnet34("avg", num_classes=10).fc
        Linear(in_features=512, out_features=10, bias=True)
    """
    return _resnet("resnet34", pool, num_classes, dim, options)


def resnet50(pool: str = "gcp", num_classes: int = 1000, dim: Dim = "published", **options: Any) -> nn.Module:
    """Build ResNet-50 as published with ``pool``, with random weights.

    Args:
        pool: "gcp" (iSQRT-COV) or "dropcov", without the stride of the last stage; "avg" is torchvision's own network.
        num_classes: outputs of the classifier; 0 for none.
        dim: channels after the reduction; "published" is 256 for "gcp" and 128 for "dropcov". ``None`` for no
            reduction.
        options: further arguments of :func:`gcp_kernels.integrations.replace_pool`: ``keep_stride``, and those of the
            pooling layer, ``n_iter`` for example.

    Returns:
        torchvision's ``ResNet``, for images (B, 3, H, W).

    Raises:
        ImportError: torchvision is not installed, or does not load with this torch.
        TypeError, ValueError: an option is unknown or out of its range, or was given for "avg", which has none.

    Example:
        >>> from gcp_kernels.models import resnet50
        >>> model = resnet50()
        >>> model.avgpool.dim, model.avgpool.n_iter, model.layer4[0].conv2.stride
        (256, 5, (1, 1))
        >>> model.fc
        Linear(in_features=32896, out_features=1000, bias=True)
    """
    return _resnet("resnet50", pool, num_classes, dim, options)


def resnet101(pool: str = "gcp", num_classes: int = 1000, dim: Dim = "published", **options: Any) -> nn.Module:
    """Build ResNet-101 as published with ``pool``; see :func:`resnet50`.

    Example:
        >>> from gcp_kernels.models import resnet101
        >>> resnet101(num_classes=10, dim=128).fc
        Linear(in_features=8256, out_features=10, bias=True)
    """
    return _resnet("resnet101", pool, num_classes, dim, options)


def _resnet(name: str, pool: str, num_classes: int, dim: Dim, options: dict[str, Any]) -> nn.Module:
    check_choice("pool", pool, (*PUBLISHED_POOLINGS, BASELINE))
    check_at_least("num_classes", num_classes, 0)
    if isinstance(dim, str) and dim != "published":
        raise ValueError(f"dim must be 'published', None or a number of channels, got {dim!r}")
    if pool == BASELINE and (not isinstance(dim, str) or options):
        given = [*options, *([] if isinstance(dim, str) else ["dim"])]
        raise ValueError(f'pool="avg" is the network as torchvision has it and takes no {", ".join(given)}')
    constructor = getattr(import_torchvision("gcp_kernels.models is built on", "models"), name)
    if pool == BASELINE:
        average: nn.Module = constructor(num_classes=max(num_classes, 1))
        if num_classes == 0:
            average.fc = nn.Identity()
        return average
    channels = PUBLISHED_POOLINGS[pool].published_dim if isinstance(dim, str) else dim
    # replace_pool makes another classifier, so torchvision's may have a single output.
    model: nn.Module = constructor(num_classes=1)
    return replace_pool(model, num_classes, channels, pool, **{"keep_stride": False, **options})
