"""Global covariance pooling as functions of tensors; each is differentiable to any order."""

from .channel_dropout import dropcov
from .pooling import covariance_pool, fused_gcp, newton_schulz_sqrt
from .triangle import triu_unvec, triu_vec

__all__ = ["covariance_pool", "dropcov", "fused_gcp", "newton_schulz_sqrt", "triu_unvec", "triu_vec"]
