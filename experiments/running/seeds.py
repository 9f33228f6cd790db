"""Seeds that change nothing for anybody else."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator of the CPU inside the block, and leave its global random state as it was.

    ``torch.manual_seed`` would seed the generators of GPUs too, which nobody puts back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
