"""isqrt_pool in Triton: on chip, persistent or by phases, as the policy chooses."""

from .launch import isqrt_pool, isqrt_pool_backward

__all__ = ["isqrt_pool", "isqrt_pool_backward"]
