"""The keys of the kernels in Triton's cache, made in one order; every launch imports this.

Up to Triton 3.7 the key of a kernel in its cache depends on what was hashed before (triton-lang/triton#10494):
constants that a function finds in those it calls are part of its key only if these were hashed first. Two processes
that launch kernels in another order would each compile for themselves. So all are hashed here, in one order.
"""

from ..covariance_pool.triton import kernels as covariance
from ..isqrt_pool.triton import gradient, iteration, on_chip, persistent, phases
from ..isqrt_pool.triton.positions import blocks, factor, panels
from ..isqrt_pool.triton.positions import on_chip as positions_on_chip
from ..isqrt_pool.triton.positions import persistent as positions_persistent
from ..isqrt_pool.triton.positions import phases as positions_phases
from . import features, products, tiles, triangle

HASHED = (
    products, features, triangle, tiles, iteration, gradient, factor, blocks, panels,
    covariance, on_chip, persistent, phases, positions_on_chip, positions_persistent, positions_phases,
)  # fmt: skip

for _module in HASHED:
    for _function in vars(_module).values():
        getattr(_function, "cache_key", None)  # interpreted functions have none

# At every launch Triton compares each constant that a kernel depends on with what it was, which costs eight calls of
# Python for a constant. They never change, and are in the keys already.
LAUNCHED = (covariance, on_chip, persistent, phases, positions_on_chip, positions_persistent, positions_phases)
for _module in LAUNCHED:
    for _function in vars(_module).values():
        getattr(_function, "used_global_vals", {}).clear()
