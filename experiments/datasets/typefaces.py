"""Which typeface is this? Patches of random text in thirty typefaces that matplotlib ships, made from a seed.

Fine-grained: the classes differ in the shape of strokes, not in what is written, and several in weight or slope alone.
"""

import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

import torch

from gcp_kernels.extras import how_to_install

from .parts import ImageData, Part, part

SIZE = 64
# Patches of each typeface.
TRAIN, VALIDATION, TEST = 100, 40, 60
HEIGHTS = range(13, 25)  # of the type, in pixels; lines are a fifth further apart
# As many as the window shows of the smallest type.
LINES, LETTERS = 6, 22

# Files in matplotlib's data path, for the Latin letters themselves.
FILES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmtt10"),
)
# Alphabets of their own in STIXGeneral, among Unicode's mathematical letters.
ALPHABETS = (
    "BOLD SCRIPT", "BOLD FRAKTUR", "FRAKTUR", "DOUBLE-STRUCK", "SANS-SERIF", "SANS-SERIF BOLD", "SANS-SERIF ITALIC",
    "SANS-SERIF BOLD ITALIC", "MONOSPACE",
)  # fmt: skip
CLASSES = (*FILES, *(f"STIXGeneral {alphabet.lower()}" for alphabet in ALPHABETS))


def load_typefaces(device: torch.device) -> ImageData:
    """Make 64x64 patches of text in thirty typefaces: of each 100 to train on, 40 to choose by, 60 to test.

    No text of one part is in another. Sizes, positions, contrast and noise vary, and some patches are light on dark.
    The same installed versions of matplotlib and Pillow give the same patches.

    Raises:
        ImportError: matplotlib, which has the typefaces, or Pillow, which it needs itself, is not installed.
    """
    counts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    texts = _texts(counts)
    parts = {name: _part(name, texts[name], device) for name in counts}
    return ImageData(
        name="typefaces",
        **parts,
        classes=CLASSES,
        source="patches of random letters, made here from a seed, in thirty typefaces that matplotlib ships: DejaVu, "
        "STIX, Computer Modern",
        licence="of the typefaces: Bitstream Vera and Arev licences (DejaVu), STIX Font License, BaKoMa Fonts Licence; "
        "the patches are as free as those let them be",
    )


def _texts(counts: dict[str, int]) -> dict[str, list[tuple[str, ...]]]:
    """Draw for each part as many texts as it has patches; no line of letters is in two of them."""
    random, seen = Random("texts"), set()
    texts: dict[str, list[tuple[str, ...]]] = {}
    for name, count in counts.items():
        texts[name] = []
        for _ in range(count * len(CLASSES)):
            lines: list[str] = []
            while len(lines) < LINES:
                line = "".join(random.choices(string.ascii_letters, k=LETTERS))
                if line not in seen:
                    seen.add(line)
                    lines.append(line)
            texts[name].append(tuple(lines))
    return texts


def _part(name: str, texts: Sequence[tuple[str, ...]], device: torch.device) -> Part:
    """Draw the patches of one part, classes in turn, and put them in a random order."""
    labels = [number % len(CLASSES) for number in range(len(texts))]
    patches = [
        patch(CLASSES[label], lines, Random(f"{name} {number}"))
        for number, (label, lines) in enumerate(zip(labels, texts, strict=True))
    ]
    order = Random(name).sample(range(len(texts)), len(texts))
    return part(torch.stack([patches[index] for index in order]), [labels[index] for index in order], device)


def patch(typeface: str, lines: Sequence[str], random: Random) -> torch.Tensor:
    """Draw a window (64, 64) into a page of text, in [0, 1].

    Args:
        typeface: one of ``CLASSES``.
        lines: of Latin letters.
        random: decides size, position, contrast and noise.
    """
    image, draw, fonts = _pillow()
    height = random.choice(HEIGHTS)
    file, letters = _letters(typeface)
    font = _font(file, height, fonts)
    page = image.new("L", (SIZE, SIZE), 0)
    pen = draw.Draw(page)
    step = 1.2 * height
    left, top = -random.uniform(0, 1.5 * height), -random.uniform(0, step)
    for number in range(ceil((SIZE - top) / step)):
        # What lies beyond the window is left out, which halves the time.
        line = lines[number][: ceil((SIZE - left) / (0.3 * height))]
        pen.text((left, top + number * step), line.translate(letters), fill=255, font=font)
    ink = torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8).view(SIZE, SIZE) / 255
    paper, contrast = random.uniform(0, 1), random.uniform(0.35, 1)
    # Towards whichever end leaves room for the contrast; where both do, either.
    room = [sign for sign in (-1, 1) if 0 <= paper + sign * contrast <= 1] or [1 if paper < 0.5 else -1]
    noise = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(random.getrandbits(32)))
    return (paper + random.choice(room) * contrast * ink + random.uniform(0, 0.1) * noise).clamp(0, 1)


def _pillow() -> tuple[Any, Any, Any]:
    try:
        import matplotlib  # noqa: F401  # its typefaces
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError as error:
        raise ImportError(f"typefaces are what matplotlib ships, which is missing: {how_to_install('demo')}") from error
    return Image, ImageDraw, ImageFont


@lru_cache
def _font(file: str, height: int, fonts: Any) -> Any:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{file}.ttf"
    # The basic layout is the same with and without the library that the other one needs.
    return fonts.truetype(str(path), height, layout_engine=fonts.Layout.BASIC)


@lru_cache
def _letters(typeface: str) -> tuple[str, dict[int, int]]:
    """Return the file of a typeface, and for each Latin letter the character that has its form there."""
    file, _, alphabet = typeface.partition(" ")
    if not alphabet:
        return file, {}
    return file, {ord(letter): ord(_styled(letter, alphabet.upper())) for letter in string.ascii_letters}


def _styled(letter: str, alphabet: str) -> str:
    """Return the mathematical letter; a few of them had been in Unicode before, under names of their own."""
    name = f"{alphabet} {'CAPITAL' if letter.isupper() else 'SMALL'} {letter.upper()}"
    older = name.replace("FRAKTUR", "BLACK-LETTER")
    for each in (f"MATHEMATICAL {name}", older):
        try:
            return unicodedata.lookup(each)
        except KeyError:
            continue
    raise AssertionError(f"Unicode has no {name}")
