"""Does a better square root of the covariance train better? Newton-Schulz, the exact root, and optimal steps.

The network is one of :mod:`experiments.training` with another pooling, and what is measured is what the reproduction
measures, by the same rule.
"""

from ..reproduction.settings import Settings
from .run import run
from .settings import DEFAULTS, SMALL, check

__all__ = ["DEFAULTS", "SMALL", "Settings", "check", "run"]
