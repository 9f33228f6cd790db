"""The square roots that are compared, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gcp_kernels.nn import GCP

from .optimal_root import OptimalRoot

NEWTON_SCHULZ, EXACT, OPTIMAL = "Newton-Schulz", "exact root", "optimal cubics"


@dataclass(frozen=True)
class Root:
    """A square root as settings, plots and reports know it.

    Attributes:
        family: ``NEWTON_SCHULZ``, ``EXACT`` or ``OPTIMAL``.
        steps: of the iteration; ``None`` for the exact root.
        build: channels -> pooling layer.
    """

    family: str
    steps: int | None
    build: Callable[[int], Any]

    @property
    def label(self) -> str:
        """What reports write."""
        return self.family if self.steps is None else f"{self.family}, N = {self.steps}"


ROOTS = {
    **{f"n{n}": Root(NEWTON_SCHULZ, n, partial(GCP, dim=None, n_iter=n)) for n in range(1, 11)},
    "exact": Root(EXACT, None, partial(GCP, dim=None, normalization="power")),
    **{f"optimal{n}": Root(OPTIMAL, n, partial(OptimalRoot, steps=n)) for n in range(1, 11)},
}
# What is published, and what every other root is compared with.
PUBLISHED = "n5"
