"""Global covariance pooling as layers, in the conventions of ``torch.nn``."""

from .checkpoint import rename_reduction_keys
from .gcp import GCP

__all__ = ["GCP", "rename_reduction_keys"]
