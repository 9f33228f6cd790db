"""Which cases of a test are in `make test`, where it is marked ``sampled(n)``: an n-th of them, but every value."""

from collections.abc import Mapping, Sequence

import pytest


def sample(items: Sequence[pytest.Item]) -> None:
    """Mark as thorough all cases of a sampled test but those that :func:`chosen` takes."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        (n,) = cases[0].get_closest_marker("sampled").args
        kept = chosen([case.callspec.params for case in cases], n)
        for number, case in enumerate(cases):
            if number not in kept:
                case.add_marker(pytest.mark.thorough)


def chosen(cases: Sequence[Mapping[str, object]], n: int) -> set[int]:
    """Choose an n-th of the cases, or a few more: every value of every parameter is among them.

    But not of parameters that have more values than there are places. Greedy: the next case is that with most new
    values, and of several the first in strides of n.
    """
    places = -(-len(cases) // n)
    values = [{(name, repr(value)) for name, value in case.items()} for case in cases]
    counts: dict[str, int] = {}
    for name, _ in set().union(*values):
        counts[name] = counts.get(name, 0) + 1
    missing = {pair for pair in set().union(*values) if counts[pair[0]] <= places}
    order = [number for start in range(n) for number in range(start, len(cases), n)]
    kept: set[int] = set()
    while missing or len(kept) < places:
        best = max((number for number in order if number not in kept), key=lambda number: len(values[number] & missing))
        kept.add(best)
        missing -= values[best]
    return kept
