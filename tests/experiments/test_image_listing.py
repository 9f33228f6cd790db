"""What counts as an image and as a class in a folder, where links lead, and what is said of the rest."""

import os

import pytest

from experiments.datasets.image_listing import check_folders, list_images, notes, require_images

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def listed(part):
    return list_images(part, SUFFIXES)


def names(listing, part):
    return [(os.path.relpath(path, part), label) for path, label in listing.samples]


@pytest.fixture
def part(tmp_path):
    part = tmp_path / "images" / "train"
    put(part, "cat/0.jpg", "cat/1.jpg", "dog/0.png")
    return part


PLAIN = [("cat/0.jpg", 0), ("cat/1.jpg", 0), ("dog/0.png", 1)]


def test_images_are_listed_by_class_folder_and_name(part):
    put(part, "cat/b/2.JPG", "cat/b/a.jpg/1.TiFF", "cat/B.jpeg", "dog/0.tar.png")
    found = listed(part)
    assert found.classes == ["cat", "dog"]
    assert names(found, part) == [
        ("cat/0.jpg", 0),
        ("cat/1.jpg", 0),
        ("cat/B.jpeg", 0),
        ("cat/b/2.JPG", 0),
        ("cat/b/a.jpg/1.TiFF", 0),
        ("dog/0.png", 1),
        ("dog/0.tar.png", 1),
    ]
    assert not found.skipped
    assert not found.left_out
    assert notes(found, found) == []


def test_the_order_is_that_of_torchvision(part):
    """Where nothing is to be left out: the order decides which images a step has."""
    folder = pytest.importorskip("torchvision.datasets.folder", reason="torchvision is not installed (extra: models)")
    put(
        part,
        "cat/b/2.JPG",
        "cat/b/c/1.png",
        "cat/b-/1.png",
        "cat/b.jpg/1.png",
        "cat/Z/1.png",
        "cat/é/1.png",
        "Dog/1.png",
    )
    put(part.parent / "elsewhere", "5.png")
    link(part / "cat" / "linked", part.parent / "elsewhere")
    expected = folder.make_dataset(str(part), extensions=SUFFIXES)
    assert listed(part).samples == expected


def test_what_is_no_image_is_counted_by_suffix(part):
    put(
        part,
        "cat/list.txt",
        "dog/a.TXT",
        "dog/b.avif",
        "dog/c.heic",
        "cat/IMG_1",
        "cat/Thumbs.db",
        "labels.csv",
        "3.jpg",
    )
    put(part, "cat/.DS_Store", "cat/._0.jpg", "dog/.hidden.png", ".DS_Store")
    os.mkfifo(part / "dog" / "pipe.jpg")
    found = listed(part)
    assert names(found, part) == PLAIN
    assert dict(found.skipped) == {
        ".txt": 2,
        ".avif": 1,
        ".heic": 1,
        ".db": 1,
        "without a suffix": 1,
        "hidden": 4,
        ".csv outside of any class": 1,
        ".jpg outside of any class": 1,
        ".jpg that are no files": 1,
    }
    (line,) = notes(found, listed_empty(part))
    assert line == (
        "files skipped: 4 hidden, 2 .txt, 1 .avif, 1 .csv outside of any class, 1 .db, 1 .heic, "
        "1 .jpg outside of any class, 1 .jpg that are no files, 1 others"
    )


def listed_empty(part):
    other = part.parent / "val"
    put(other, "cat/0.jpg", "dog/0.jpg")
    return listed(other)


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "__pycache__", "lost+found", "$RECYCLE.BIN", "#recycle"],
)
def test_folders_of_systems_are_no_classes_and_not_looked_into(name, part):
    put(part, f"{name}/0.jpg", f"cat/{name}/0-checkpoint.jpg", f"cat/a/{name}/b/0.jpg")
    found = listed(part)
    assert found.classes == ["cat", "dog"]
    assert names(found, part) == PLAIN
    assert notes(found, listed_empty(part)) == [f"folders left out: 3 {name}"]


def test_a_root_needs_folders_that_can_be_classes(tmp_path):
    put(tmp_path, "train/.git/0.jpg", "train/0.jpg", "val/cat/0.jpg")
    with pytest.raises(FileNotFoundError, match=r"there is no .*train with folders"):
        check_folders(tmp_path)
    put(tmp_path, "train/cat/0.jpg")
    check_folders(tmp_path)
    put(tmp_path, "other/train", "other/val")
    for wrong in ("other", "train/0.jpg", "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"must be a folder with train/ and val/"):
            check_folders(tmp_path / wrong)


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../..", "/", "a/..", "../../train"])
def test_a_link_to_a_parent_is_refused(target, part):
    put(part, "cat/a/0.jpg")
    link(part / "cat" / "loop", target)
    with pytest.raises(ValueError, match=r"cat/loop is a link to /.*, a folder that it lies in: remove the link"):
        listed(part)


def test_a_link_to_the_other_part_is_refused(part):
    other = part.parent / ("val" if part.name == "train" else "train")
    put(other, "dog/1.jpg")
    put(part, "cat/0.jpg")
    link(part / "cat" / "more", other)
    with pytest.raises(ValueError, match=r"cat/more is a link to .*, which has all classes: remove the link"):
        listed(part)


def test_a_link_to_a_parent_of_where_a_link_led_is_refused(part):
    store = part.parent.parent / "store"
    put(store, "birds/0.jpg")
    link(part / "bird", store / "birds")
    link(store / "birds" / "up", store)
    with pytest.raises(ValueError, match=r"bird/up is a link to .*store, a folder that it lies in"):
        listed(part)
    (store / "birds" / "up").unlink()
    link(store / "birds" / "back", part.parent)
    with pytest.raises(ValueError, match=r"bird/back is a link to .*images, a folder that it lies in"):
        listed(part)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("kitten", "cat"),
        ("cat/dogs", "../dog"),
        ("dog/cats", "../cat"),
        ("dog/some", "../cat/a"),
        ("cat/again", "a"),
        ("puppy", "../store"),
    ],
)
def test_a_folder_that_is_listed_already_is_refused(name, target, part):
    put(part, "cat/a/0.jpg")
    put(part.parent, "store/0.jpg")
    link(part / "horse", "../store")
    link(part / name, target)
    with pytest.raises(ValueError, match=r"are the same folder, by a link; its images would count twice") as raised:
        listed(part)
    assert str(part / name) in str(raised.value) or str(part / target) in str(raised.value)


def test_links_to_elsewhere_are_followed(part):
    store = part.parent.parent / "store"
    put(store, "a.jpg", "birds/0.jpg", "more/dogs/1.png")
    link(part / "bird", store / "birds")
    link(part / "dog" / "more", store / "more")
    link(part / "cat" / "2.jpg", store / "a.jpg")
    link(part.parent / "val", store)
    found = listed(part)
    assert found.classes == ["bird", "cat", "dog"]
    assert names(found, part) == [
        ("bird/0.jpg", 0),
        ("cat/0.jpg", 1),
        ("cat/1.jpg", 1),
        ("cat/2.jpg", 1),
        ("dog/0.png", 2),
        ("dog/more/dogs/1.png", 2),
    ]
    assert names(listed(part.parent / "val"), part.parent / "val") == [("birds/0.jpg", 0), ("more/dogs/1.png", 1)]


@pytest.mark.parametrize("name", ["bird", "cat/more", "cat/list.txt"])
@pytest.mark.parametrize("circle", [False, True])
def test_a_link_to_nowhere_is_refused(name, circle, part):
    target = (part / name).name if circle else "/unmounted/images"
    link(part / name, target)
    with pytest.raises(FileNotFoundError, match=f"{name} is a link to {target}, which is not there"):
        listed(part)


def test_an_image_that_is_a_link_to_nowhere_is_kept_to_fail_by_its_name(part):
    link(part / "dog" / "1.jpg", "/annex/1.jpg")
    assert names(listed(part), part)[-1] == ("dog/1.jpg", 1)


def test_a_folder_that_cannot_be_read_is_an_error(part, monkeypatch):
    put(part, "cat/secret/0.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*cat/secret'"):
        listed(part)


def test_a_class_without_an_image_is_named_with_what_was_skipped(part):
    put(part, "bird/0.avif", "bird/.0.jpg")
    found = listed(part)
    with pytest.raises(FileNotFoundError) as raised:
        require_images(found, part, "(.jpg, .png)")
    assert str(raised.value) == (
        f"'bird' in {part} has no image (.jpg, .png); skipped there and elsewhere: 1 .avif, 1 hidden"
    )


def common(train, val):
    return [line for line in notes(listed(train), listed(val)) if "training images too" in line]


@pytest.mark.parametrize(
    ("name", "target", "count"),
    [
        ("val", "train", 3),
        ("val/cat", "../train/cat", 2),
        ("val/dog/more", "../../train/dog", 1),
        ("val/dog/5.jpg", "../../train/cat/1.jpg", 1),
        ("train/dog/5.png", "../../val/dog/7.png", 1),
        ("train/dog/more", "../../val/dog", 1),
    ],
)
def test_images_of_both_parts_are_counted(name, target, count, part):
    root = part.parent
    if name != "val":
        put(root, "val/dog/7.png")
        if name != "val/cat":
            put(root, "val/cat/7.png")
    link(root / name, target)
    assert common(part, root / "val") == [
        f"{count} test images are training images too, by links: the test accuracy counts them"
    ]


def test_files_that_links_list_again_are_counted(part):
    """To show an image more often is done on purpose, too, so it is no error."""
    put(part.parent, "val/cat/7.jpg", "val/dog/7.jpg")
    for name in ("cat/7.jpg", "cat/8.jpg", "dog/7.jpg"):
        link(part / name, "../cat/0.jpg")
    link(part.parent / "val" / "dog" / "8.jpg", "7.jpg")
    link(part.parent / "val" / "dog" / "9.jpg", "nowhere.jpg")
    assert notes(listed(part), listed(part.parent / "val")) == [
        "images that links list again, for the same class or another one: 4"
    ]


def test_links_to_different_images_of_one_store_have_none_in_common(part):
    root = part.parent
    put(root, "store/0.jpg", "store/1.jpg", "val/cat/7.jpg", "val/dog/7.jpg")
    link(part / "cat" / "9.jpg", root / "store" / "0.jpg")
    link(root / "val" / "cat" / "9.jpg", root / "store" / "1.jpg")
    assert common(part, root / "val") == []
    link(root / "val" / "cat" / "8.jpg", root / "store" / "0.jpg")
    assert len(common(part, root / "val")) == 1


def test_names_that_are_no_text_are_listed_and_shown(part):
    put(part, "cat/\udcff.jpg", "cat/a.\udcff", "\udcff/0.jpg")
    found = listed(part)
    assert found.classes == ["cat", "dog", "\udcff"]
    assert notes(found, found) == [r"files skipped: 2 '.\udcff'"]
