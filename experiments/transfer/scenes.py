"""Scenes of handwritten digits at random places and in random sizes, whose masks are known to the pixel."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gcp_kernels.validation import check_at_least

from ..datasets import Part

# A pixel belongs to a digit where its stroke, resized, is at least so bright of 1.
STROKE = 0.3
BRIGHTNESS = (0.6, 1.0)
BACKGROUND = (0.0, 0.3)
NOISE = 0.05
# Of every digit so much stays visible; a place where one would hide more of another is drawn again, so often at most.
VISIBLE = 0.5
ATTEMPTS = 20


@dataclass(frozen=True)
class Layout:
    """How scenes are drawn: their size, how many digits, and the digits' heights in pixels, both ends included.

    A digit's height is that of its frame of 28x28, of which strokes take 20 at most.

    Raises:
        ValueError: a scene that the largest digit does not fit into, or an end below the other.
    """

    size: int
    digits: tuple[int, int]
    heights: tuple[int, int]

    def __post_init__(self) -> None:
        """Raise for what cannot be drawn."""
        for name, (low, high) in (("digits", self.digits), ("heights", self.heights)):
            check_at_least(name, low, 1)
            check_at_least(name, high, low)
        check_at_least("size", self.size, self.heights[1])


@dataclass(frozen=True)
class Scene:
    """A scene of H x W pixels with n digits, those painted later before the others.

    Attributes:
        image: (1, H, W), float32 in [0, 1].
        boxes: (n, 4), float32: x and y of the first pixel that is visible, and one behind the last.
        labels: (n,), int64, the digits.
        masks: (n, H, W), bool: what is visible of each; no pixel is in two.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor


def draw_scenes(digits: Part, count: int, layout: Layout, seed: int) -> list[Scene]:
    """Draw scenes from the digits (n, 1, h, w) of a data set; the same arguments give the same scenes."""
    return list(_scenes(digits, count, layout, torch.Generator().manual_seed(seed)))


def _scenes(digits: Part, count: int, layout: Layout, generator: torch.Generator) -> Iterator[Scene]:
    for _ in range(count):
        image = torch.full((layout.size, layout.size), _uniform(*BACKGROUND, generator))
        image += NOISE * torch.randn(image.shape, generator=generator)
        masks: list[Tensor] = []
        areas: list[int] = []
        labels: list[Tensor] = []
        for _ in range(_integer(*layout.digits, generator)):
            index = _integer(0, len(digits) - 1, generator)
            stroke = _stroke(digits.images[index, 0], _integer(*layout.heights, generator))
            brightness = _uniform(*BRIGHTNESS, generator)
            placed = _placed(stroke, masks, areas, layout.size, generator)
            if placed is None:
                continue
            mask = placed >= STROKE
            image = torch.where(mask, brightness * placed, image)
            masks = [*(below & ~mask for below in masks), mask]
            areas.append(int(mask.sum()))
            labels.append(digits.labels[index])
        stacked = torch.stack(masks)
        yield Scene(image.clamp(0, 1).unsqueeze(0), boxes_of(stacked), torch.stack(labels), stacked)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the extent (n, 4) of masks (n, H, W), none of them empty: first pixels, and one behind the last."""
    ends = []
    for axis in (1, 2):  # over the rows for x, over the columns for y
        seen = masks.any(axis).int()
        ends.append((seen.argmax(1), seen.shape[1] - seen.flip(1).argmax(1)))
    (left, right), (top, bottom) = ends
    return torch.stack((left, top, right, bottom), dim=1).float()


def _stroke(digit: Tensor, height: int) -> Tensor:
    """Resize a digit, and cut it to the extent of its stroke."""
    resized = functional.interpolate(
        digit[None, None], size=(height, height), mode="bilinear", antialias=True, align_corners=False
    )[0, 0]
    left, top, right, bottom = boxes_of((resized >= STROKE).unsqueeze(0))[0].int().tolist()
    return resized[top:bottom, left:right]


def _placed(
    stroke: Tensor, masks: list[Tensor], areas: list[int], size: int, generator: torch.Generator
) -> Tensor | None:
    """Put a stroke into an empty scene where it leaves enough of the digits below; ``None`` if no place was found.

    ``masks`` are what is visible of these so far, and ``areas`` the pixels that each had before others hid some.
    """
    height, width = stroke.shape
    for _ in range(ATTEMPTS):
        top, left = _integer(0, size - height, generator), _integer(0, size - width, generator)
        placed = functional.pad(stroke, (left, size - width - left, top, size - height - top))
        mask = placed >= STROKE
        if all((below & ~mask).sum() >= VISIBLE * area for below, area in zip(masks, areas, strict=True)):
            return placed
    return None


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
