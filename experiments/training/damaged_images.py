"""Every image decoded once, before training: which of them are damaged."""

from collections.abc import Callable, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from ..datasets.image_decoding import DamagedImageError, ImageError, decode
from .distributed import Processes

# Images that a worker decodes before it reports.
CHUNK = 32

Report = Callable[[int, int], object]


def find_damaged(
    samples: Sequence[tuple[str, int]], workers: int, processes: Processes, report: Report | None = None
) -> list[DamagedImageError]:
    """Return the errors of the images that cannot be decoded, in the order of ``samples``, alike in every process.

    Args:
        samples: path and label of each image.
        workers: processes that read images for this one; 0 to read in this one.
        processes: each reads its share.
        report: called with how many images of the share have been decoded, and how many there are.

    Raises:
        ImageError: of the first image that can be decoded and not be used, in all processes.
    """
    own = [path for path, _ in samples[processes.rank :: processes.count]]
    # Without one of its own, a loader draws a seed from the global random state, which is the training's.
    loader = DataLoader(_Errors(own), batch_size=None, num_workers=workers, generator=torch.Generator())
    found: list[ImageError] = []
    for number, errors in enumerate(loader, start=1):
        found += errors
        if report is not None:
            report(min(number * CHUNK, len(own)), len(own))
    by_path = {error.path: error for share in processes.gather(found) for error in share}
    in_order = [by_path[path] for path, _ in samples if path in by_path]
    for error in in_order:
        if not isinstance(error, DamagedImageError):
            raise error
    return [error for error in in_order if isinstance(error, DamagedImageError)]


class _Errors(Dataset[list[ImageError]]):
    """What goes wrong in each piece of the images."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return -(-len(self._paths) // CHUNK)

    def __getitem__(self, index: int) -> list[ImageError]:
        found = []
        for path in self._paths[index * CHUNK : (index + 1) * CHUNK]:
            try:
                decode(path)
            except ImageError as error:
                found.append(error)
        return found
