"""What one file of an image becomes: every kind of pixels, and every kind of damage."""

import os
import pickle
import struct
import warnings
import zlib

import pytest

from experiments.datasets.image_decoding import DamagedImageError, ImageError, decode

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

SHORT, LONG = 3, 4
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(path, bits, data, *, sample_format=UNSIGNED, white=False, samples=1, order="<", photometric=None):
    """Write a TIFF of 2x2 pixels without compression, by its specification, version 6."""
    if photometric is None:
        photometric = 2 if samples == 3 else 0 if white else 1
    tags = {256: 2, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 0, 277: samples, 278: 2, 279: len(data),
            339: sample_format}  # fmt: skip
    end = 8 + 2 + 12 * len(tags) + 4
    lists, entries = b"", b""
    for tag, value in tags.items():
        if tag == 273:
            entries += struct.pack(order + "HHII", tag, LONG, 1, end + 64)
        elif tag in (258, 339) and samples > 1:
            entries += struct.pack(order + "HHII", tag, SHORT, samples, end + len(lists))
            lists += struct.pack(order + "H", value) * samples
        else:
            entries += struct.pack(order + "HHIHH", tag, SHORT, 1, value, 0)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    path.write_bytes(start + entries + bytes(4) + lists.ljust(64, b"\0") + data)
    return path


def png(path, colour_type, channels, value=4000):
    """Write a PNG of 2x2 pixels of 16 bits."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = 2 * (b"\0" + 2 * channels * struct.pack(">H", value))
    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))
    return path


def colour(path):
    """Give the colour of the image, which must have only one."""
    image = decode(str(path))
    assert image.mode == "RGB"
    (found,) = image.getcolors()
    return found[1]


def grey(path):
    red, green, blue = colour(path)
    assert red == green == blue
    return red


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (4000, 16), (32896, 128), (65535, 255)])
def test_grey_of_16_bits_is_scaled(value, expected, tmp_path):
    assert grey(png(tmp_path / "a.png", 0, 1, value)) == expected
    for order in "<>":
        assert grey(tiff(tmp_path / "a.tif", 16, 4 * struct.pack(order + "H", value), order=order)) == expected
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + 4 * struct.pack(">H", value))
    assert grey(tmp_path / "a.pgm") == expected


def test_grey_of_12_bits_is_scaled(tmp_path):
    assert grey(tiff(tmp_path / "a.tif", 12, 2 * bytes([0xFA, 0x0F, 0xA0]))) == round(4000 / 4095 * 255)
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 4095\n" + 4 * struct.pack(">H", 4000))
    assert grey(tmp_path / "a.pgm") == round(4000 / 4095 * 255)


def test_white_at_zero_is_white(tmp_path):
    assert grey(tiff(tmp_path / "a.tif", 8, 4 * b"\x10", white=True)) == 255 - 16
    assert grey(tiff(tmp_path / "a.tif", 16, 4 * struct.pack("<H", 4000), white=True)) == 255 - 16
    assert grey(tiff(tmp_path / "a.tif", 16, bytes(8), white=True)) == 255


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_a_16_bit_png_is_the_same_by_either_mode(mode, tmp_path, monkeypatch):
    """The mode of one was I before Pillow 11.3 or so, and in a PGM it is now."""
    image = Image.new(mode, (2, 2), 4000)
    image.format = "PNG"
    monkeypatch.setattr(Image, "open", lambda path: image)
    assert grey("a.png") == 16


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bits_of_colour_or_with_transparency_give_their_high_byte(colour_type, channels, tmp_path):
    assert grey(png(tmp_path / "a.png", colour_type, channels)) == 4000 >> 8


def test_16_bits_of_colour_in_tiff_give_their_high_byte(tmp_path):
    assert grey(tiff(tmp_path / "a.tif", 16, 12 * struct.pack("<H", 4000), samples=3)) == 4000 >> 8


@pytest.mark.parametrize(
    ("bits", "sample_format", "data", "message"),
    [
        (32, UNSIGNED, struct.pack("<I", 4000), "integers of 32 bits"),
        (32, SIGNED, struct.pack("<i", -4000), "signed integers"),
        (16, SIGNED, struct.pack("<h", -4000), "signed integers"),
        (8, SIGNED, struct.pack("<b", -40), "signed integers"),
        (32, FLOAT, struct.pack("<f", 0.5), "floats"),
    ],
)
def test_pixels_without_a_known_range_are_refused(bits, sample_format, data, message, tmp_path):
    path = tiff(tmp_path / "a.tif", bits, 4 * data, sample_format=sample_format)
    with pytest.raises(ImageError, match=f"{message}.*: save it with 8 or unsigned 16 bits") as raised:
        decode(str(path))
    assert not isinstance(raised.value, DamagedImageError), "nothing is wrong with the file"
    assert str(raised.value).startswith(f"{path} has pixels whose black and white are not known")


def test_floats_by_another_suffix_are_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"Pf\n2 2\n-1.0\n" + 4 * struct.pack("<f", 0.5))
    with pytest.raises(ImageError, match="floats"):
        decode(str(tmp_path / "a.pgm"))


RED = (255, 0, 0)


@pytest.mark.parametrize(
    ("mode", "name", "value", "expected"),
    [
        ("1", "a.png", 1, (255, 255, 255)),
        ("L", "a.png", 16, (16, 16, 16)),
        ("LA", "a.png", (16, 3), (16, 16, 16)),
        ("RGBA", "a.png", (*RED, 3), RED),
        ("CMYK", "a.tif", (0, 255, 255, 0), RED),
        ("YCbCr", "a.jpg", (128, 128, 128), (128, 128, 128)),
    ],
)
def test_modes_of_8_bits_become_rgb(mode, name, value, expected, tmp_path):
    Image.new(mode, (2, 2), value).save(tmp_path / name)
    assert max(abs(a - b) for a, b in zip(colour(tmp_path / name), expected, strict=True)) <= 3


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_a_palette_with_transparency_becomes_its_colours_without_a_warning(transparency, tmp_path):
    image = Image.new("P", (2, 2), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert colour(tmp_path / "a.png") == RED


@pytest.mark.parametrize("name", ["pages.tif", "frames.png"])
def test_of_several_frames_the_first_is_taken(name, tmp_path):
    first, second = Image.new("RGB", (2, 2), RED), Image.new("RGB", (2, 2), "blue")
    first.save(tmp_path / name, save_all=True, append_images=[second])
    assert colour(tmp_path / name) == RED


def test_an_orientation_in_exif_is_not_applied(tmp_path):
    image = Image.new("RGB", (6, 2))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert decode(str(tmp_path / "a.jpg")).size == (6, 2)


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "sound.png"
    Image.effect_noise((40, 48), 90).save(path)
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-300])


def overwritten(path):
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(200) + content[400:])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("<html>not found</html>")


def folder(path):
    path.unlink()
    path.mkdir()


def link_to_nowhere(path):
    path.unlink()
    path.symlink_to("nowhere.png")


def link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "damage",
    [truncated, overwritten, empty, text, os.remove, folder, link_to_nowhere, link_to_itself],
    ids=lambda damage: damage.__name__,
)
def test_damage_is_one_error_in_one_line(damage, sound):
    decode(str(sound))
    damage(sound)
    with pytest.raises(DamagedImageError) as raised:
        decode(str(sound))
    message = str(raised.value)
    assert message.startswith(f"{sound} cannot be decoded: ")
    assert len(message.splitlines()) == 1
    assert message.count(str(sound)) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken data stream"),
        PermissionError(13, "Permission denied", "sound.png"),
        SyntaxError("broken PNG file"),
        ValueError("several\nlines"),
        struct.error("unpack requires a buffer of 4 bytes"),
        zlib.error("Error -3"),
        IndexError(),
        KeyError("RGB"),
        EOFError(),
        OverflowError("too large"),
        Image.DecompressionBombError("could be decompression bomb DOS attack"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_is_one_error(error, sound, monkeypatch):
    def fail(path):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DamagedImageError, match=r"sound\.png cannot be decoded: .+$") as raised:
        decode(str(sound))
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), OSError(24, "Too many open files")], ids=["memory", "files"])
def test_what_the_machine_lacks_is_no_damage(error, sound, monkeypatch):
    """Else --skip-damaged would leave out other images on another day."""

    def fail(path):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match=r"sound\.png cannot be decoded: (MemoryError|Too many open files)$") as raised:
        decode(str(sound))
    assert not isinstance(raised.value, DamagedImageError)


def test_only_what_pillow_refuses_is_too_large(sound, monkeypatch):
    pixels = 40 * 48
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
        assert decode(str(sound)).size == (40, 48)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 - 1)
        with pytest.raises(DamagedImageError, match=r"cannot be decoded: DecompressionBombError: Image size"):
            decode(str(sound))


def test_an_interruption_is_not_damage(sound, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(str(sound))


@pytest.mark.parametrize("kind", [ImageError, DamagedImageError])
def test_an_error_crosses_processes_and_shows_any_name(kind):
    error = kind("folder/two\nlines\udcff.png", "is\n  bad")
    assert str(error) == r"'folder/two\nlines\udcff.png' is bad"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.path, copy.reason) == (kind, str(error), error.path, error.reason)


def test_a_mode_without_a_way_to_rgb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda path: Image.new("La", (2, 2)))
    with pytest.raises(ImageError, match=r"a\.png has mode La, which Pillow cannot convert") as raised:
        decode("a.png")
    assert not isinstance(raised.value, DamagedImageError)


def test_only_named_formats_have_a_range(tmp_path, monkeypatch):
    image = Image.new("I;16", (2, 2), 4000)
    image.format = "FITS"
    monkeypatch.setattr(Image, "open", lambda path: image)
    with pytest.raises(ImageError, match="integers of 16 bits in FITS"):
        decode("a.png")
