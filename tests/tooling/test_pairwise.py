"""What the tests' own parameters are made by: every pair of values, in few combinations, the same every time."""

from itertools import combinations, product

import pytest

from tests.support.pairwise import pairwise

LISTS = [("abcd", range(5), (1, 2, 49, 196)), ("ab", "cd", "ef", "gh"), ("abc", [None]), (range(7), "xy", range(4))]


@pytest.mark.parametrize("lists", LISTS, ids=str)
def test_every_pair_is_there_and_none_twice_over(lists):
    rows = pairwise(*lists)
    assert len(set(rows)) == len(rows)
    for i, j in combinations(range(len(lists)), 2):
        assert {(row[i], row[j]) for row in rows} == set(product(lists[i], lists[j]))
    assert set(rows) <= set(product(*lists))


@pytest.mark.parametrize("lists", LISTS, ids=str)
def test_there_are_few_and_always_the_same(lists):
    rows = pairwise(*lists)
    first, second = sorted(map(len, lists))[-2:]
    assert first * second <= len(rows) <= first * second + max(map(len, lists))
    assert rows == pairwise(*lists)
