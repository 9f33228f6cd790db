"""Lists of names in messages: the first of them, and how many more there are."""

from collections.abc import Iterable
from itertools import islice


def listed(names: Iterable[str], most: int, *, separator: str = ", ", rest: str = "more") -> str:
    """Join the first ``most`` names, and count the others: a model has hundreds of parameters, a folder any number.

    Args:
        names: what is listed, in this order.
        most: how many are named.
        separator: between two names, and before the count of the others.
        rest: what the others are called.

    Returns:
        The names and, if there are more than ``most``, "and 3 more"; an empty string for no names.

    Example:
        >>> from gcp_kernels.listing import listed
        >>> listed(["conv1", "bn1", "fc"], most=2)
        'conv1, bn1, and 1 more'
    """
    remaining = iter(names)
    parts = list(islice(remaining, most))
    if others := sum(1 for _ in remaining):
        parts.append(f"and {others} {rest}")
    return separator.join(parts)
