"""Figures over rounds: on a machine with other work a median alone says little."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute it from one value or more."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __format__(self, form: str) -> str:
        """Write the median, and the quartiles in brackets, each in the form that is given for a number."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"
