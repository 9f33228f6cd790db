"""COCO's average precision of boxes and masks, by pycocotools, from tensors."""

import contextlib
import importlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gcp_kernels.extras import how_to_install
from gcp_kernels.validation import check_choice

from .scenes import Scene

# Where COCO's figures have the mean over overlaps of 0.5 to 0.95, that at 0.5, and that at 0.75.
FIGURES = {"AP": 0, "AP50": 1, "AP75": 2}
# What is compared, and its name in pycocotools.
COMPARED = {"boxes": "bbox", "masks": "segm"}


def pycocotools(module: str) -> Any:
    """Import a module of pycocotools.

    Raises:
        ImportError: pycocotools is not installed; the message says how to.
    """
    try:
        return importlib.import_module(f"pycocotools.{module}")
    except ImportError as error:
        raise ImportError(
            f"average precision needs pycocotools, which cannot be imported: {how_to_install('demo', 'transfer')}"
        ) from error


def average_precision(
    scenes: Sequence[Scene], found: Sequence[Mapping[str, Tensor]], compared: str, classes: int
) -> dict[str, float]:
    """Return AP, AP50 and AP75 in per cent, as COCO has them: means over the classes that are in the scenes.

    Args:
        scenes: one at least, of one size, with the truth: their ``boxes``, ``labels`` and ``masks`` are read.
        found: for each scene ``labels`` (n,), ``scores`` (n,), and ``boxes`` (n, 4) or ``masks`` (n, H, W) as those of
            the scenes.
        compared: "boxes" or "masks".
        classes: number of labels.

    Raises:
        ValueError: ``compared`` is something else.
        ImportError: pycocotools is not installed; the message says how to.
    """
    check_choice("compared", compared, tuple(COMPARED))
    height, width = scenes[0].image.shape[-2:]
    truth = pycocotools("coco").COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number, "height": height, "width": width} for number in range(len(scenes))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": [
            # An identity of 0 would stand for no match at all.
            {**annotation, "id": identity, "iscrowd": 0, "area": 1.0}
            for identity, annotation in enumerate(_annotations([vars(scene) for scene in scenes], compared), start=1)
        ],
    }
    results = list(_annotations(found, compared))
    if not results:  # pycocotools reads the first of them to see what they are
        return dict.fromkeys(FIGURES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        truth.createIndex()
        evaluation = pycocotools("cocoeval").COCOeval(truth, truth.loadRes(results), COMPARED[compared])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(evaluation.stats[place]) for name, place in FIGURES.items()}


def _annotations(per_image: Sequence[Mapping[str, Tensor]], compared: str) -> Iterator[dict[str, Any]]:
    """Describe each thing in each image as COCO does, with its score if it has one."""
    for number, things in enumerate(per_image):
        described = (_box if compared == "boxes" else _mask)(things[compared])
        for place, (label, description) in enumerate(zip(things["labels"].tolist(), described, strict=True)):
            score = {"score": float(things["scores"][place])} if "scores" in things else {}
            yield {"image_id": number, "category_id": label, **description, **score}


def _box(boxes: Tensor) -> list[dict[str, Any]]:
    return [{"bbox": [left, top, right - left, bottom - top]} for left, top, right, bottom in boxes.tolist()]


def _mask(masks: Tensor) -> list[dict[str, Any]]:
    columns = masks.to(torch.uint8).transpose(-2, -1).contiguous()
    encode = pycocotools("mask").encode
    # (H, W, 1) with its columns one after the other, as they are encoded.
    return [{"segmentation": encode(mask.numpy().T[..., None])[0]} for mask in columns]
