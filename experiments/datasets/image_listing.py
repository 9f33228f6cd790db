"""What is an image of which class: the files below train/ or val/, and all that is there and is left out."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gcp_kernels.listing import listed

# Folders that systems put beside what people put there, in small letters; those that begin with a dot are others.
OF_SYSTEMS = ("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
              "system volume information")  # fmt: skip
NAMED = 8


@dataclass
class Listing:
    """Images of one part, train or val.

    Attributes:
        classes: names in the order of their labels, which is that of their characters.
        samples: path and label of each image, by class, folder and name.
        skipped: how many files are no images, by suffix, or by what else they are.
        left_out: how many folders are no classes, and not looked into, by name.
        linked: whether a link leads to any of this.
    """

    classes: list[str]
    samples: list[tuple[str, int]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    linked: bool = False


def check_folders(root: Path) -> None:
    """Raise ``FileNotFoundError`` unless ``root`` has train/ and val/ with folders in them that can be classes."""
    for part in ("train", "val"):
        if not (root / part).is_dir() or not _classes(root / part):
            raise FileNotFoundError(
                f"{root} must be a folder with train/ and val/, in each a folder for every class; "
                f"there is no {root / part} with folders"
            )


def list_images(part: Path, suffixes: Sequence[str]) -> Listing:
    """List the images of ``part``, at any depth below the folders of their classes.

    Links to files and to folders are followed. Files and folders whose name begins with a dot are left out, and so are
    folders of ``OF_SYSTEMS``; what is skipped is counted.

    Args:
        part: the folder that has a folder for every class.
        suffixes: of images, in small letters, each with its dot; those of files may be in capitals.

    Raises:
        ValueError: a link leads to a folder that it lies in, or to one that is listed already, for this class or for
            another one: images would count twice, or be of two classes.
        FileNotFoundError: a link that is not named like an image leads nowhere: it may have been one to a folder of
            images.
        OSError: a folder cannot be read.
    """
    listing = Listing(_classes(part), linked=part.is_symlink())
    walk = _Walk(part, tuple(suffixes), listing)
    for label, name in enumerate(listing.classes):
        walk.list_class(name, label)
    return listing


def require_images(listing: Listing, part: Path, without: str) -> None:
    """Raise ``FileNotFoundError`` unless every class has an image; ``without`` says what is meant by none."""
    found = {label for _, label in listing.samples}
    empty = [name for label, name in enumerate(listing.classes) if label not in found]
    if empty:
        raise FileNotFoundError(
            f"{listed(map(repr, empty), NAMED)} in {part} {'has' if len(empty) == 1 else 'have'} no image {without}"
            + (f"; skipped there and elsewhere: {_counts(listing.skipped)}" if listing.skipped else "")
        )


def notes(train: Listing, test: Listing) -> list[str]:
    """Say in lines for a person what of both parts was left out, and which images are there twice, by links."""
    lines = []
    if skipped := train.skipped + test.skipped:
        lines.append(f"files skipped: {_counts(skipped)}")
    if left_out := train.left_out + test.left_out:
        lines.append(f"folders left out: {_counts(left_out)}")
    if not (train.linked or test.linked):
        return lines
    trained, tested = _files(train), _files(test)
    if repeated := (trained.total() - len(trained)) + (tested.total() - len(tested)):
        lines.append(f"images that links list again, for the same class or another one: {repeated}")
    if common := sum(count for file, count in tested.items() if file in trained):
        lines.append(f"{common} test images are training images too, by links: the test accuracy counts them")
    return lines


def _classes(part: Path) -> list[str]:
    with os.scandir(part) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry) and not _left_out(entry.name))


def _left_out(folder: str) -> bool:
    return folder.startswith(".") or folder.lower() in OF_SYSTEMS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that cannot be entered
        return False


class _Walk:
    """Through one part. ``seen`` has every folder that was entered: its real path, and the one by which it was."""

    def __init__(self, part: Path, suffixes: tuple[str, ...], listing: Listing) -> None:
        self.part, self.suffixes, self.listing = str(part), suffixes, listing
        self.real = os.path.realpath(part)
        self.parts = [os.path.realpath(part.parent / name) for name in ("train", "val")]
        self.seen = {self.real: str(part)}
        for entry in self._entries(str(part)):
            # An image beside the folders of the classes has no class.
            if not _is_folder(entry):
                self._skip(entry, f"{_suffix(entry.name)} outside of any class")

    def list_class(self, name: str, label: int) -> None:
        found: list[tuple[str, str]] = []
        pending: list[tuple[str, tuple[str, ...]]] = [(os.path.join(self.part, name), (self.real,))]
        while pending:
            folder, parents = pending.pop()
            real = self._enter(folder, parents)
            for entry in self._entries(folder):
                if _is_folder(entry):
                    pending.append((entry.path, (*parents, real)))
                elif not entry.name.lower().endswith(self.suffixes):
                    self._skip(entry, _suffix(entry.name))
                elif not _may_be_read(entry):
                    self._skip(entry, f"{_suffix(entry.name)} that are no files")
                else:
                    found.append((folder, entry.name))
                    self.listing.linked |= entry.is_symlink()
        self.listing.samples += [(os.path.join(*place), label) for place in sorted(found)]

    def _enter(self, folder: str, parents: tuple[str, ...]) -> str:
        """Return the real path of a folder, which must be a new one."""
        real = os.path.realpath(folder)
        self.listing.linked |= os.path.islink(folder)
        if os.path.islink(folder) and any(Path(parent).is_relative_to(real) for parent in parents):
            raise ValueError(f"{folder} is a link to {real}, a folder that it lies in: remove the link")
        if os.path.islink(folder) and any(Path(other).is_relative_to(real) for other in self.parts):
            raise ValueError(f"{folder} is a link to {real}, which has all classes: remove the link")
        if real in self.seen:
            raise ValueError(
                f"{folder} and {self.seen[real]} are the same folder, by a link; its images would count twice, "
                "or be of two classes: remove the link"
            )
        self.seen[real] = folder
        return real

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Yield what a person put into the folder, by name; the rest is counted."""
        with os.scandir(folder) as entries:
            in_order = sorted(entries, key=lambda entry: entry.name)
        for entry in in_order:
            if _is_folder(entry) and _left_out(entry.name):
                self.listing.left_out[entry.name] += 1
            elif entry.name.startswith("."):
                self.listing.skipped["hidden"] += 1
            else:
                yield entry

    def _skip(self, entry: os.DirEntry[str], kind: str) -> None:
        if _leads_nowhere(entry):
            raise FileNotFoundError(
                f"{entry.path} is a link to {os.readlink(entry.path)}, which is not there or cannot be reached: "
                "mend or remove the link"
            )
        self.listing.skipped[kind] += 1


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Accept a file, or a link to nowhere, which fails by its name when it is read; reading a pipe would never end."""
    try:
        return entry.is_file() or _leads_nowhere(entry)
    except OSError:
        return True


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _files(listing: Listing) -> Counter[tuple[int, int]]:
    """Count how often each file is listed, by its identity; one that is not there fails by its name when it is read."""
    files: Counter[tuple[int, int]] = Counter()
    for path, _ in listing.samples:
        with suppress(OSError):
            status = os.stat(path)
            files[status.st_dev, status.st_ino] += 1
    return files


def _counts(counter: Counter[str]) -> str:
    """Name the most frequent kinds, in an order that depends on nothing else."""
    kinds = sorted(counter.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{count} {_shown(kind)}" for kind, count in kinds[:NAMED]]
    others = sum(count for _, count in kinds[NAMED:])
    return ", ".join([*named, *([f"{others} others"] if others else [])])


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
