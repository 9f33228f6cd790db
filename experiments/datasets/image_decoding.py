"""A file as an RGB image of 8 bits, and one kind of error, with its name, for all that can be wrong with it."""

import errno
import warnings
from typing import Any

# Of TIFF, by number: BitsPerSample, PhotometricInterpretation with its value for "zero is white", SampleFormat with its
# value for signed integers.
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
ZERO_IS_WHITE, SIGNED = 0, 2
# In these Pillow scales grey of more than 8 bits to 16, in mode I or I;16; that of TIFF keeps the bits that it has.
SCALED_TO_16_BITS = ("PNG", "PPM", "JPEG2000")
# Pillow's modes for such grey, little- and big-endian; and for what is wider than 8 bits besides.
GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
WIDE = {"I": "integers of 32 bits, or signed", "F": "floats"}
# Memory, and files that may be open at a time.
OUT_OF = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class ImageError(OSError):
    """An image cannot be used; the message names its file and the reason, in one line.

    Args:
        path: of the file.
        reason: goes on after the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        # A name may hold line breaks, or bytes that are no text.
        super().__init__(f"{path if path.isprintable() else repr(path)} {' '.join(reason.split())}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


class DamagedImageError(ImageError):
    """A file cannot be opened, or its content not be decoded."""


def decode(path: str) -> Any:
    """Read the image in a file as a PIL image of mode RGB; of several frames or pages the first.

    Grey of 12 or 16 bits is scaled by its range to 0..255. As in torchvision, channels of 16 bits in colour give their
    high byte, transparency is dropped, and an orientation noted in EXIF is not applied.

    Raises:
        DamagedImageError: the file cannot be opened or decoded, for whatever reason but the next.
        ImageError: its pixels are floats, signed, or of 32 bits, so that nothing says what is black and what is white;
            or Pillow has no way to RGB from its mode; or memory, or files that may be open, ran out.
    """
    from PIL import Image

    # Warnings of Pillow name no file and would come again in every epoch: of metadata, which are not used, and of sizes
    # of more than half of those that it refuses.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Decoders meet damage with whatever it leads to: SyntaxError, IndexError, zlib.error, ...
        try:
            with Image.open(path) as image:
                image.load()
                return _rgb(image, path)
        except ImageError:
            raise
        except Exception as error:
            kind = ImageError if _of_the_machine(error) else DamagedImageError
            raise kind(path, f"cannot be decoded: {_reason(error)}") from error


def _rgb(image: Any, path: str) -> Any:
    tags = getattr(image, "tag_v2", {})  # only TIFF has them
    if SIGNED in tags.get(TIFF_SAMPLE_FORMAT, ()):
        raise _without_range(path, "signed integers")
    if image.mode not in (*GREY_16, *WIDE):
        try:
            return image.convert("RGB")
        except ValueError as error:
            raise ImageError(path, f"has mode {image.mode}, which Pillow cannot convert: save it as RGB") from error
    if image.format == "TIFF" and image.mode in GREY_16:
        white = 2 ** tags[TIFF_BITS][0] - 1
    elif image.format in SCALED_TO_16_BITS and image.mode != "F":
        white = 2**16 - 1
    else:
        raise _without_range(path, WIDE.get(image.mode, f"integers of 16 bits in {image.format}"))
    # Rounded, as the conversion to 8 bits cuts off.
    scale, offset = 255 / white, 0.5
    if tags.get(TIFF_PHOTOMETRIC) == ZERO_IS_WHITE:
        scale, offset = -scale, 255.5
    return image.convert("I").point(lambda value: value * scale + offset).convert("L").convert("RGB")


def _without_range(path: str, pixels: str) -> ImageError:
    return ImageError(
        path, f"has pixels whose black and white are not known, {pixels}: save it with 8 or unsigned 16 bits"
    )


def _of_the_machine(error: Exception) -> bool:
    """Say whether another machine, or this one later, might read the same file."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in OUT_OF)


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or of no format that Pillow reads here"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
