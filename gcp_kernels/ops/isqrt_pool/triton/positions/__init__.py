"""isqrt_pool in Triton on the side of the positions."""
