"""Few combinations of parameters in which every value of one meets every value of each other."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import torch


def combined(*parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Give every combination where a GPU makes each of them short, else :func:`pairwise`."""
    return list(product(*parameters)) if torch.cuda.is_available() else pairwise(*parameters)


def pairwise(*parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Give combinations of a value of each parameter, the same every time, that have all pairs of values.

    Faults that show only where three values meet are rare (Kuhn, Wallace and Gallo, IEEE Trans. Software Eng. 30(6),
    2004: of those found, two values or one brought about 70 to 97 per cent), while the full product grows with each
    parameter. Greedy: each combination begins with a pair that is still missing, and takes on the value that has most.
    """
    sizes = [range(len(values)) for values in parameters]
    missing = dict.fromkeys(
        ((i, a), (j, b)) for i, j in combinations(range(len(sizes)), 2) for a in sizes[i] for b in sizes[j]
    )
    found = []
    while missing:
        row = dict(next(iter(missing)))
        for i in range(len(sizes)):
            if i not in row:
                row[i] = max(sizes[i], key=lambda a, i=i: sum(_pair((i, a), other) in missing for other in row.items()))
        for pair in combinations(sorted(row.items()), 2):
            missing.pop(pair, None)
        found.append(tuple(values[row[i]] for i, values in enumerate(parameters)))
    return found


def _pair(one: tuple[int, int], other: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    return min(one, other), max(one, other)
