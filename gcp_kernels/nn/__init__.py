"""Global covariance pooling as layers, in the conventions of ``torch.nn``."""

from .checkpoint import rename_reduction_keys
from .dropcov import DropCov
from .gcp import GCP

__all__ = ["GCP", "DropCov", "rename_reduction_keys"]
