"""Global covariance pooling as layers, in the conventions of ``torch.nn``."""

from .checkpoint import rename_reduction_keys
from .cross_covariance import MultiHeadCrossCovariance
from .dropcov import DropCov
from .fusion import TokenFusionHead
from .gcp import GCP

__all__ = ["GCP", "DropCov", "MultiHeadCrossCovariance", "TokenFusionHead", "rename_reduction_keys"]
