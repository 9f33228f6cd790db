"""What a run is trained on, in words: a resumed run must find the same classes and the same images."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from gcp_kernels.listing import listed

from ..datasets import ImageData

NAMED = 5


def describe_folder(
    root: Path, classes: Sequence[str], samples: Mapping[str, Sequence[tuple[str, int]]]
) -> dict[str, str]:
    """Say for each class of each part of a folder of images how many files it has, with their fingerprint.

    That is of their paths below the folder of the class, in order, and of their sizes; no file is read.

    Args:
        root: the folder.
        classes: names, by label.
        samples: for each part, train and val, path and label of its images, those of a class one after another.
    """
    return {
        f"{part}/{classes[label]}": _described("files", [_path_and_size(path, root / part) for path, _ in files])
        for part, images in samples.items()
        for label, files in groupby(images, key=lambda sample: sample[1])
    }


def describe_digits(digits: ImageData) -> dict[str, str]:
    """Say for the digits' training and test part how many images it has, with the fingerprint of images and labels."""
    described = {}
    for name, part in (("train", digits.train), ("test", digits.test)):
        rows = torch.cat((part.labels[:, None], part.images.flatten(1)), 1).tolist()
        described[name] = _described("images", [str(row).encode() for row in rows])
    return described


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say how ``classes`` and ``dataset`` of two descriptions differ; ``None`` if they are the same."""
    was, has = before["classes"], now["classes"]
    removed, added = _without(was, has), _without(has, was)
    if removed or added:
        changes = {"removed": removed, "added": added}
        return f"classes {'; '.join(f'{what}: {listed(names, NAMED)}' for what, names in changes.items() if names)}"
    if was != has:
        return f"the order of the classes was {listed(was, NAMED)}"
    recorded, found = before["dataset"]["listing"], now["dataset"]["listing"]
    changed = [
        f"{name} had {recorded.get(name, 'nothing')}, and has {found.get(name, 'nothing')}"
        for name in {**recorded, **found}
        if recorded.get(name) != found.get(name)
    ]
    return listed(changed, NAMED, separator="; ") if changed else None


def _described(what: str, each: Sequence[bytes]) -> str:
    digest = hashlib.blake2b(b"\0".join(each), digest_size=8)
    return f"{len(each)} {what}, fingerprint {digest.hexdigest()}"


def _path_and_size(path: str, part: Path) -> bytes:
    try:
        size = os.stat(path).st_size
    except OSError:  # a link that leads nowhere, for example; who reads the image will say so
        size = -1
    return os.fsencode(f"{path.removeprefix(str(part))} {size}")


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in set(others)]
