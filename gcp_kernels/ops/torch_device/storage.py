"""Memory for the iterates of a batch: kept for the backward pass, or used again for every slice of the batch."""

from torch import Tensor

from .iteration import Iterates


class IterateStorage:
    """The :class:`Iterates` of a batch, indexed by slices of the batch.

    Args:
        kept: the tensor (B, 2 N, C, C) that goes from the forward to the backward pass, or (B, 0, C, C) where nothing
            is kept. In that case memory for one slice is allocated here, and serves all slices.
        n_iter: N.
        size: samples in a slice.
    """

    def __init__(self, kept: Tensor, n_iter: int, size: int) -> None:
        _, count, c, _ = kept.shape
        self._per_batch = count > 0
        self._slab = kept.transpose(0, 1) if count else kept.new_empty(2 * n_iter, size, c, c)

    def __getitem__(self, part: slice) -> Iterates:
        samples = part if self._per_batch else slice(0, part.stop - part.start)
        return Iterates.view(self._slab[:, samples])
