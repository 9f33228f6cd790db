"""Figures as small files."""

import io
from pathlib import Path
from typing import Any

from gcp_kernels.commands.atomic_files import write_atomically

COLORS = 256


def write_png(path: Path, figure: Any, dpi: int) -> None:
    """Write a figure of matplotlib with a palette of 256 colours: a third of the size, and no line looks different."""
    # matplotlib needs Pillow itself.
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as image:
        picture = image.convert("RGB").quantize(COLORS)
    write_atomically(path, lambda file: picture.save(file, format="png", optimize=True))
