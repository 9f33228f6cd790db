"""Covariance pooling in models of torchvision and timm, and published iSQRT-COV checkpoints."""

from ..checkpoint_file import CheckpointError
from .checkpoint import load_isqrt_checkpoint
from .replacement import replace_pool
from .request import POOLS, UnsupportedModelError

__all__ = ["POOLS", "CheckpointError", "UnsupportedModelError", "load_isqrt_checkpoint", "replace_pool"]
