"""covariance_pool in operators of torch."""

from torch import Tensor

from ..standard_operators import centred_features, read_triangle


def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool) -> Tensor:
    """Pool features (B, C, M), scale (B, C), to (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``."""
    centred = centred_features(x)
    if scale is not None:
        centred = centred * scale[..., None].to(centred.dtype)
    cov = centred @ centred.mT / x.shape[-1]
    return (read_triangle(cov) if triu else cov).to(x.dtype)
