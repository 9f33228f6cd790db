"""Four corruptions of images at five strengths each, after Hendrycks & Dietterich (ICLR 2019), for images of 8x8.

Their ImageNet-C has fifteen, with amounts for 224 pixels; here is one of each kind that means something at eight:
noise, blur, contrast (weather and digital), and a shift, from the same paper's perturbations.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from gcp_kernels.validation import check_at_least, check_choice

# Strengths 1 to 5. Noise: standard deviation, of a range of 1. Blur: standard deviation in pixels. Contrast: the share
# that is taken away. Shift: pixels. Chosen on trained networks: the first costs a network with average pooling half a
# point to seven of its 98, the fifth 38 to 84, and a network with GCP 20 to 48 (docs/reproduction).
AMOUNTS: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.3, 0.4, 0.5),
    "blur": (0.4, 0.55, 0.7, 0.85, 1.0),
    "contrast": (0.1, 0.2, 0.3, 0.45, 0.6),
    "shift": (0.4, 0.8, 1.2, 1.6, 2.0),
}
NAMES = tuple(AMOUNTS)
STRENGTHS = (1, 2, 3, 4, 5)


def corrupted(images: Tensor, name: str, strength: int, seed: int = 0) -> Tensor:
    """Return the images corrupted with one of the five strengths; equal for equal arguments, on every device.

    Args:
        images: (n, 1, H, W) in [0, 1], floating point. Not changed.
        name: "noise", "blur", "contrast" or "shift".
        strength: 1 to 5.
        seed: of the noise and of the directions of the shifts; an image has the same ones at every strength.

    Returns:
        As ``images``, in [0, 1] too.

    Raises:
        TypeError, ValueError: another name or strength.
    """
    check_choice("name", name, NAMES)
    check_at_least("strength", strength, 1)
    check_choice("strength", strength, STRENGTHS)
    return FUNCTIONS[name](images, AMOUNTS[name][strength - 1], torch.Generator().manual_seed(seed))


def noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add normal noise to every pixel, cut off at black and white. ``generator`` is one of the CPU, here and below."""
    normal = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)
    return (images + deviation * normal).clamp(0, 1)


def blur(images: Tensor, deviation: float, generator: torch.Generator | None = None) -> Tensor:
    """Blur by a Gaussian of ``deviation`` pixels; beyond the border the pixels of the border are repeated."""
    if deviation == 0:
        return images.clone()
    offsets = torch.arange(-4, 5, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (weights / weights.sum()).to(images)
    padded = functional.pad(images, (4, 4, 4, 4), mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(rows, kernel.view(1, 1, -1, 1)).clamp(0, 1)


def contrast(images: Tensor, taken: float, generator: torch.Generator | None = None) -> Tensor:
    """Bring every pixel nearer to the mean of its image, by the share ``taken``."""
    mean = images.mean((-3, -2, -1), keepdim=True)
    return (images + taken * (mean - images)).clamp(0, 1)


def shift(images: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Move each image up, down, left or right, drawn at random; black comes in, and fractions are interpolated."""
    direction = torch.randint(4, (len(images),), generator=generator).to(images.device)
    whole = int(pixels)
    fraction = pixels - whole
    moved = torch.stack([_moved(images, axis, sign * whole) for axis in (-2, -1) for sign in (-1, 1)])
    further = torch.stack([_moved(images, axis, sign * (whole + 1)) for axis in (-2, -1) for sign in (-1, 1)])
    mixed = moved + fraction * (further - moved)
    return mixed[direction, torch.arange(len(images), device=images.device)]


def _moved(images: Tensor, axis: int, pixels: int) -> Tensor:
    """Move the images by whole pixels along one axis, towards higher indices if positive."""
    size = images.shape[axis]
    kept = max(0, size - abs(pixels))
    result = torch.zeros_like(images)
    source, target = (0, size - kept) if pixels > 0 else (size - kept, 0)
    result.narrow(axis, target, kept).copy_(images.narrow(axis, source, kept))
    return result


Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
FUNCTIONS: dict[str, Corruption] = {"noise": noise, "blur": blur, "contrast": contrast, "shift": shift}
