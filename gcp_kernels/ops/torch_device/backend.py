"""The torch backend: the formulas of docs/mathematics.md in batched matrix products.

It serves every operation, dtype and device. It is the only backend on CPUs and for float64, and runs on a GPU wherever
no kernel can.
"""

import torch

from ..rooms import OPERATIONS
from .side import side_of

__all__ = ["OPERATIONS", "side_of", "status", "why_not"]


def why_not(operation: str, tensor: torch.Tensor, precision: str = "default") -> str | None:
    """Say why this backend cannot run ``operation`` on ``tensor``: it always can."""
    return None


def status() -> str:
    """Say in one line, for ``python -m gcp_kernels info``, what it serves."""
    return "serves every operation on every device"
