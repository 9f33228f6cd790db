"""The papers' optimisation-perspective analyses, on a network and data of your own; see docs/analysis.md.

No training framework: every function takes a network, or callables, and a batch, and leaves the network as it was.
"""

from .landscape import PUBLISHED_STEPS, Landscape, evenly_spaced, loss_landscape
from .recorder import LandscapeRecord, LandscapeRecorder
from .split import split
from .state import preserved

__all__ = [
    "PUBLISHED_STEPS",
    "Landscape",
    "LandscapeRecord",
    "LandscapeRecorder",
    "evenly_spaced",
    "loss_landscape",
    "preserved",
    "split",
]
