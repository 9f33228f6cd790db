"""Of a sampled test every value of a parameter is in `make test`, however its cases are laid out."""

from itertools import product

import pytest

from tests.support.sampling import chosen

pytestmark = pytest.mark.same_without_gpu


def cases(**parameters):
    return [dict(zip(parameters, values, strict=True)) for values in product(*parameters.values())]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_every_value_is_there_that_has_a_place(n):
    """Whatever period the values have: a stride would meet the same ones again and again."""
    found = cases(form=("on_chip", "persistent", "phases"), output=("triu", "full"), number=range(10))
    kept = chosen(found, n)
    assert len(found) / n <= len(kept) <= len(found) / n + 5
    for name in ("form", "output", "number"):
        values = {case[name] for case in found}
        if len(values) <= len(found) / n:
            assert {found[number][name] for number in kept} == values
    assert kept == chosen(found, n)


def test_a_parameter_with_more_values_than_places_does_not_keep_everything():
    found = cases(seed=range(40))
    assert len(chosen(found, 4)) == 10
