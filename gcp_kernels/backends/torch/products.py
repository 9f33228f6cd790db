"""Matrix products in the precision asked for, whatever the global settings say."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matmul_precision(device: torch.device, dtype: torch.dtype, precision: str) -> Iterator[None]:
    """Run float32 matrix products as "high" (IEEE float32) or "fast" (TF32 on a GPU) inside the block.

    The setting of torch is global: it is changed only where it differs, and restored. On the CPU every product is
    IEEE float32, because what torch offers there instead is bfloat16, ten times less exact than "fast" promises.
    """
    if dtype != torch.float32:
        yield
        return
    on_cpu = device.type == "cpu"
    # mypy: torch declares this attribute of its mkldnn module at run time only.
    setting = torch.backends.mkldnn.matmul if on_cpu else torch.backends.cuda.matmul  # type: ignore[attr-defined]
    wanted = "tf32" if precision == "fast" and not on_cpu else "ieee"
    current = setting.fp32_precision
    if current == wanted or (wanted == "ieee" and current == "none"):
        yield
        return
    setting.fp32_precision = wanted
    try:
        yield
    finally:
        setting.fp32_precision = current
