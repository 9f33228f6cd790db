"""covariance_pool in Triton: one launch forward, one backward."""

from .launch import covariance_pool, covariance_pool_backward

__all__ = ["covariance_pool", "covariance_pool_backward"]
