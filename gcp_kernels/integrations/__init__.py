"""Covariance pooling in models of torchvision and timm, their trunks, and published iSQRT-COV checkpoints."""

from ..checkpoint_file import CheckpointError
from .backbone import backbone_state_dict
from .checkpoint import load_isqrt_checkpoint
from .replacement import replace_pool
from .request import POOLS, UnsupportedModelError

__all__ = [
    "POOLS",
    "CheckpointError",
    "UnsupportedModelError",
    "backbone_state_dict",
    "load_isqrt_checkpoint",
    "replace_pool",
]
