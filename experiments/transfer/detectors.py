"""A ResNet-18 as classifier, and torchvision's Faster R-CNN and Mask R-CNN with a feature pyramid on its trunk."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcp_kernels.extras import import_torchvision
from gcp_kernels.integrations import replace_pool
from gcp_kernels.integrations.stride import drop_stride
from gcp_kernels.nn.poolings import BASELINE, PUBLISHED_POOLINGS
from gcp_kernels.validation import check_choice

from ..running.seeds import seeded
from .scenes import Scene

DETECTORS = {"mask": "Mask R-CNN", "box": "Faster R-CNN"}
# Channels of the pyramid, and of what stands on it; torchvision has 256, 1024 and four times 256, for larger pictures.
PYRAMID, BOX_HEAD, MASK_HEAD = 64, 256, (64, 64)
# Without the stride of layer4 there are as many positions in it as in layer3, in whose place it stands.
LEVELS = {"layer1": "0", "layer2": "1", "layer4": "2"}
CHANNELS = [64, 128, 512]
# Sides of the anchors in pixels, one for each level and for a fourth of half the resolution.
ANCHORS = (12, 20, 32, 48)
# From this side on, in pixels, boxes take their features from the coarsest level, from half of it on from the next. The
# published pyramid has 224 on images of 800, which is 27 on scenes of 96; digits have 25 in the middle, and 40 at most.
COARSEST_FROM = 32
# Proposals for a scene, and how many of them the heads learn from; torchvision has 2000 and 512.
PROPOSALS, SAMPLED = 64, 32
# Results for a scene at most.
DETECTIONS = 16
# The batch normalisations of the classifier have seen images in [0, 1]; torchvision's detectors standardise else.
STANDARDISED = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}


def build_classifier(pool: str, classes: int, dim: int, seed: int) -> nn.Module:
    """Build a ResNet-18 without the stride of its last stage: (B, 3, H, W) -> (B, classes).

    A seed gives every pooling the same trunk. torch's global random state is left alone.

    Args:
        pool: "avg", "gcp" or "dropcov".
        classes: how many.
        dim: channels after the reduction, which average pooling has not.
        seed: of the weights.

    Raises:
        ValueError: ``pool`` is another one.
        ImportError: torchvision is not installed, or does not load beside this torch.
    """
    check_choice("pool", pool, (BASELINE, *PUBLISHED_POOLINGS))
    resnet18 = import_torchvision("the experiment of transfer needs", "models").resnet18
    with seeded(seed):
        network: nn.Module = resnet18(num_classes=classes)
        if pool != BASELINE:
            return replace_pool(network, dim=dim, pool=pool, keep_stride=False)
        drop_stride(network.get_submodule("layer4"))
        return network


def build_detector(kind: str, classes: int, size: int, seed: int, trunk: Mapping[str, Tensor] | None) -> nn.Module:
    """Build a detector of torchvision for scenes of ``size`` x ``size`` pixels; class 0 is the background.

    A seed gives every trunk the same layers on it. torch's global random state is left alone. Every parameter learns,
    and batch normalisation goes on counting: torchvision freezes it, with which a trunk of random weights cannot learn.

    Args:
        kind: "mask" for Mask R-CNN, "box" for Faster R-CNN.
        classes: without the background.
        size: height and width.
        seed: of the weights.
        trunk: what ``backbone_state_dict`` gives of a classifier of :func:`build_classifier`; ``None`` for the random
            weights with which that begins from this seed.

    Raises:
        ValueError: ``kind`` is another one.
        ImportError: torchvision is not installed, or does not load beside this torch.
    """
    check_choice("kind", kind, tuple(DETECTORS))
    detection = import_torchvision("the experiment of transfer needs", "models.detection")
    ops = import_torchvision("the experiment of transfer needs", "ops")
    with seeded(seed):
        network = build_classifier(BASELINE, classes, 1, seed)
        backbone = detection.backbone_utils.BackboneWithFPN(network, LEVELS, CHANNELS, PYRAMID)
        if trunk is not None:
            backbone.body.load_state_dict(trunk)

        def regions(side: int) -> Any:
            return ops.MultiScaleRoIAlign(
                list(LEVELS.values()), side, sampling_ratio=2, canonical_scale=COARSEST_FROM, canonical_level=4
            )

        parts = {
            "rpn_anchor_generator": detection.anchor_utils.AnchorGenerator(
                tuple((side,) for side in ANCHORS), ((0.5, 1.0, 2.0),) * len(ANCHORS)
            ),
            "box_roi_pool": regions(7),
            "box_head": detection.faster_rcnn.TwoMLPHead(PYRAMID * 7 * 7, BOX_HEAD),
            "box_predictor": detection.faster_rcnn.FastRCNNPredictor(BOX_HEAD, classes + 1),
        }
        if kind == "mask":
            parts["mask_roi_pool"] = regions(14)
            parts["mask_head"] = detection.mask_rcnn.MaskRCNNHeads(PYRAMID, MASK_HEAD, 1)
            parts["mask_predictor"] = detection.mask_rcnn.MaskRCNNPredictor(MASK_HEAD[-1], MASK_HEAD[-1], classes + 1)
        detector: nn.Module = (detection.MaskRCNN if kind == "mask" else detection.FasterRCNN)(
            backbone,
            min_size=size,
            max_size=size,
            rpn_pre_nms_top_n_train=4 * PROPOSALS,
            rpn_pre_nms_top_n_test=4 * PROPOSALS,
            rpn_post_nms_top_n_train=PROPOSALS,
            rpn_post_nms_top_n_test=PROPOSALS,
            box_batch_size_per_image=SAMPLED,
            box_detections_per_img=DETECTIONS,
            **STANDARDISED,
            **parts,
        )
        return detector


def images_of(scenes: Sequence[Scene]) -> list[Tensor]:
    """Return the images with the three channels that a ResNet has."""
    return [scene.image.expand(3, -1, -1) for scene in scenes]


def targets_of(scenes: Sequence[Scene]) -> list[dict[str, Tensor]]:
    """Return what torchvision's detectors learn from; labels begin at 1 behind the background."""
    return [
        {"boxes": scene.boxes, "labels": scene.labels + 1, "masks": scene.masks.to(torch.uint8)} for scene in scenes
    ]


@torch.no_grad()
def detect(detector: nn.Module, scenes: Sequence[Scene], batch_size: int) -> list[dict[str, Tensor]]:
    """Run the detector in evaluation mode, and return for each scene what :func:`average_precision` takes."""
    detector.eval()
    images = images_of(scenes)
    found = [
        result for start in range(0, len(images), batch_size) for result in detector(images[start : start + batch_size])
    ]
    return [
        {
            "boxes": result["boxes"],
            "labels": result["labels"] - 1,
            "scores": result["scores"],
            **({"masks": result["masks"][:, 0] > 0.5} if "masks" in result else {}),
        }
        for result in found
    ]
