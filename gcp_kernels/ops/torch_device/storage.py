"""Memory for the iterates of a batch, kept for the backward pass or reused by every chunk."""

from torch import Tensor

from .iteration import Iterates


class IterateStorage:
    """Hands out the :class:`Iterates` of one chunk of the batch after another.

    Args:
        kept: the tensor (B, 2 N, C, C) that goes from the forward to the backward pass, or (B, 0, C, C) where nothing
            is kept; then one chunk's worth of memory, allocated here, serves all chunks.
        n_iter: N.
        chunk: samples in a chunk.
    """

    def __init__(self, kept: Tensor, n_iter: int, chunk: int) -> None:
        _, count, c, _ = kept.shape
        self._per_batch = count > 0
        self._slab = kept.transpose(0, 1) if count else kept.new_empty(2 * n_iter, chunk, c, c)

    def __getitem__(self, part: slice) -> Iterates:
        samples = part if self._per_batch else slice(0, part.stop - part.start)
        return Iterates.view(self._slab[:, samples])
