"""The learning rates of every trunk: by digits of the validation part, and by scenes with them."""

from collections.abc import Iterable, Mapping, Sequence

from ..training import NonFiniteLossError
from .experiment import Choice

# By trunk and rate.
Tried = dict[str, dict[float, Choice]]


def classifier_rates(choices: Iterable[Choice]) -> dict[str, float]:
    """Return the rate with which the classifier knows most digits for each pooling, the lowest one of several.

    A rate with which a training diverged is none, be it one that chooses or one that is measured.

    Raises:
        NonFiniteLossError: with every rate of a pooling a training diverged; the message says of which.
    """
    return {pool: _best(f"{pool}, classifier", tried) for pool, tried in of_classifiers(choices).items()}


def detector_rates(choices: Sequence[Choice]) -> dict[str, float]:
    """Return the rate with the highest AP of masks for each trunk, by the same rule.

    Raises:
        NonFiniteLossError: with every rate of a pooling or trunk a training diverged; the message says of which.
    """
    return {trunk: _best(f"{trunk}, detectors", tried) for trunk, tried in of_detectors(choices).items()}


def of_classifiers(choices: Iterable[Choice]) -> Tried:
    """Return what was tried of the classifiers' rates."""
    tried: Tried = {}
    for one in choices:
        if one.classifier_rate is not None and one.detector_rate is None:
            tried.setdefault(one.trunk, {})[one.classifier_rate] = one
    return tried


def of_detectors(choices: Sequence[Choice]) -> Tried:
    """Return what was tried of the detectors' rates, on the trunk of the classifier with the rate that is chosen."""
    rates = classifier_rates(choices)
    tried: Tried = {}
    for one in choices:
        if one.detector_rate is not None and one.classifier_rate == rates.get(one.trunk):
            tried.setdefault(one.trunk, {})[one.detector_rate] = one
    return tried


def _best(what: str, tried: Mapping[float, Choice]) -> float:
    known = [(one.validation, -rate) for rate, one in tried.items() if one.validation is not None and not one.diverged]
    if not known:
        raise NonFiniteLossError(f"{what}: with every rate a training diverged")
    return -max(known)[1]
