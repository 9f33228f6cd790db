"""The papers' optimisation-perspective analyses, on a network and data of your own; see docs/analysis.md.

No training framework: every function takes a network, or callables, and a batch, and leaves the network as it was.
"""

from .hessian import TopEigenvalue, hessian_top_eigenvalue
from .landscape import PUBLISHED_STEPS, Landscape, evenly_spaced, loss_landscape
from .preconditioner import FeatureGradient, PreconditionerView, preconditioner_view
from .recorder import LandscapeRecord, LandscapeRecorder
from .split import split
from .state import preserved
from .surface import Surface, filter_normalized_directions, filter_normalized_surface

__all__ = [
    "PUBLISHED_STEPS",
    "FeatureGradient",
    "Landscape",
    "LandscapeRecord",
    "LandscapeRecorder",
    "PreconditionerView",
    "Surface",
    "TopEigenvalue",
    "evenly_spaced",
    "filter_normalized_directions",
    "filter_normalized_surface",
    "hessian_top_eigenvalue",
    "loss_landscape",
    "preconditioner_view",
    "preserved",
    "split",
]
