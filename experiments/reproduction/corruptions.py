"""Four corruptions of images at five strengths each, after Hendrycks & Dietterich (ICLR 2019), for small images.

Their ImageNet-C has fifteen, with amounts for 224 pixels; here is one of each kind that means something at a few
pixels: noise, blur, contrast (weather and digital), and a shift, from the same paper's perturbations. Text, of which
any part is shown, gets brighter instead of shifted.
"""

from collections.abc import Callable, Mapping
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from gcp_kernels.validation import check_at_least, check_choice

Amounts = Mapping[str, tuple[float, ...]]
STRENGTHS = (1, 2, 3, 4, 5)
UNITS = {
    "noise": "deviation of the noise, of a range of 1",
    "blur": "deviation of the blur in pixels",
    "contrast": "share of the contrast taken away",
    "shift": "pixels in one of four directions",
    "brightness": "added, of a range of 1",
}
# Strengths 1 to 5, so that the first costs a network with average pooling a few points, and the fifth many: on digits
# half a point to seven of 98, and 38 to 84. Those of mnist and typefaces were set on validation images.
DIGITS: Amounts = {
    "noise": (0.1, 0.2, 0.3, 0.4, 0.5),
    "blur": (0.4, 0.55, 0.7, 0.85, 1.0),
    "contrast": (0.1, 0.2, 0.3, 0.45, 0.6),
    "shift": (0.4, 0.8, 1.2, 1.6, 2.0),
}
MNIST: Amounts = {
    "noise": (0.03, 0.08, 0.13, 0.2, 0.3),
    "blur": (0.6, 1.0, 1.5, 2.0, 2.5),
    "contrast": (0.1, 0.3, 0.5, 0.65, 0.8),
    "shift": (2.0, 4.0, 6.0, 8.0, 10.0),
}
TYPEFACES: Amounts = {
    "noise": (0.05, 0.1, 0.15, 0.2, 0.3),
    "blur": (0.3, 0.36, 0.42, 0.48, 0.54),
    "contrast": (0.2, 0.4, 0.55, 0.7, 0.8),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
}
OF_DATA = {"digits": DIGITS, "mnist": MNIST, "typefaces": TYPEFACES}


def amounts(data: str) -> Amounts:
    """Return the five amounts of each corruption for a data set; a folder of images has those of mnist."""
    return OF_DATA.get(data, MNIST)


def corrupted(images: Tensor, data: str, name: str, strength: int, seed: int = 0) -> Tensor:
    """Return the images corrupted with one of the five strengths; equal for equal arguments, on every device.

    Args:
        images: (n, channels, H, W) in [0, 1], floating point. Not changed.
        data: of whose amounts.
        name: a corruption that has amounts there.
        strength: 1 to 5.
        seed: of the noise and of the directions of the shifts; an image has the same ones at every strength.

    Returns:
        As ``images``, in [0, 1] too.

    Raises:
        TypeError, ValueError: another name or strength.
    """
    of_data = amounts(data)
    check_choice("name", name, tuple(of_data))
    check_at_least("strength", strength, 1)
    check_choice("strength", strength, STRENGTHS)
    return FUNCTIONS[name](images, of_data[name][strength - 1], torch.Generator().manual_seed(seed))


def noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add normal noise to every pixel, cut off at black and white. ``generator`` is one of the CPU, here and below."""
    normal = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)
    return (images + deviation * normal).clamp(0, 1)


def blur(images: Tensor, deviation: float, generator: torch.Generator | None = None) -> Tensor:
    """Blur by a Gaussian of ``deviation`` pixels; beyond the border the pixels of the border are repeated."""
    if deviation == 0:
        return images.clone()
    reach = max(4, ceil(4 * deviation))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (weights / weights.sum()).to(images)
    channels = images.shape[1]
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    columns = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    return functional.conv2d(rows, columns, groups=channels).clamp(0, 1)


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


def brightness(images: Tensor, added: float, generator: torch.Generator | None = None) -> Tensor:
    """Make every pixel brighter by the same, cut off at white."""
    return (images + added).clamp(0, 1)


def _moved(images: Tensor, axis: int, pixels: int) -> Tensor:
    """Move the images by whole pixels along one axis, towards higher indices if positive."""
    size = images.shape[axis]
    kept = max(0, size - abs(pixels))
    result = torch.zeros_like(images)
    source, target = (0, size - kept) if pixels > 0 else (size - kept, 0)
    result.narrow(axis, target, kept).copy_(images.narrow(axis, source, kept))
    return result


Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
FUNCTIONS: dict[str, Corruption] = {
    "noise": noise, "blur": blur, "contrast": contrast, "shift": shift, "brightness": brightness,
}  # fmt: skip
