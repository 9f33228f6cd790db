"""How far a result is from the float64 one, and from where on it is wrong."""

import torch
from torch import Tensor

from ..precision import PROMISED_ERRORS

# Twice what precision "high" promises: a float32 result further from float64 than this is wrong, not rounded.
ERROR_LIMIT = 2 * PROMISED_ERRORS["high"]


def relative_error(result: Tensor, truth: Tensor) -> float:
    """Return || result - truth || / || truth || in float64; NaN where the result holds one."""
    return float(torch.linalg.vector_norm(result.double() - truth) / torch.linalg.vector_norm(truth))
