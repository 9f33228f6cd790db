"""Global covariance pooling for PyTorch: fused forward and backward passes behind autograd operators.

``fused_gcp(x)`` pools the last features of a network into an approximate square root of their covariance (iSQRT-COV,
CVPR 2018); ``nn.GCP`` is the layer. See the README for the whole.
"""

from importlib import import_module

from . import analysis, compat, export, integrations, models, nn, reference
from .functional import (
    covariance_pool,
    cross_covariance_pool,
    dropcov,
    elementwise_power,
    fused_gcp,
    matrix_log,
    matrix_power,
    newton_schulz_inverse_sqrt,
    newton_schulz_sqrt,
    singular_value_power,
    triu_unvec,
    triu_vec,
)
from .ops import flops, sharding  # noqa: F401  # register with torch

try:
    __version__ = import_module("._build_info", __name__).VERSION
except (ModuleNotFoundError, AttributeError):  # a checkout on the path, not installed, or built in place long ago
    __version__ = "0+unknown"

__all__ = [
    "__version__",
    "analysis",
    "compat",
    "covariance_pool",
    "cross_covariance_pool",
    "dropcov",
    "elementwise_power",
    "export",
    "fused_gcp",
    "integrations",
    "matrix_log",
    "matrix_power",
    "models",
    "newton_schulz_inverse_sqrt",
    "newton_schulz_sqrt",
    "nn",
    "reference",
    "singular_value_power",
    "triu_unvec",
    "triu_vec",
]
