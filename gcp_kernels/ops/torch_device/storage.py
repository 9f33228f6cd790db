"""Memory for the iterates of a batch: kept for the backward pass, or used again for every slice of the batch."""

from torch import Tensor

from .iteration import Iterates


class IterateStorage:
    """The :class:`Iterates` of a batch, indexed by slices of the batch.

    Args:
        kept: the tensor (B, 2 N, s, s) that goes from the forward to the backward pass, or (B, 0, ., .) where
            nothing is kept. In that case memory for one slice is allocated here, and serves all slices.
        n_iter: N.
        size: samples in a slice.
        side: s.
        of_root: whether the iteration is for Y_N, else for Z_N; see :class:`Iterates`.
    """

    def __init__(self, kept: Tensor, n_iter: int, size: int, side: int, of_root: bool) -> None:
        count = kept.shape[1]
        self._per_batch, self._of_root = count > 0, of_root
        self._slab = kept.transpose(0, 1) if count else kept.new_empty(2 * n_iter, size, side, side)

    def __getitem__(self, part: slice) -> Iterates:
        samples = part if self._per_batch else slice(0, part.stop - part.start)
        return Iterates.view(self._slab[:, samples], self._of_root)
