"""Matrix products in the precision that the user asked for, whatever torch's global settings say."""

from contextlib import AbstractContextManager, nullcontext

import torch

from gcp_kernels import matmul_setting
from gcp_kernels.precision import accumulation_dtype, resolve_precision


def matmul_precision(device: torch.device, dtype: torch.dtype, precision: str) -> AbstractContextManager[None]:
    """Make a context in which float32 products have the ``precision`` of an operator on features of ``dtype``.

    "high" is IEEE float32, "fast" is TF32 on a GPU. On a CPU every product is IEEE float32: the only faster one that
    torch offers there is bfloat16, ten times less exact than "fast" promises.
    """
    resolved = resolve_precision(precision, dtype)
    if accumulation_dtype(dtype) != torch.float32:
        return nullcontext()
    if device.type == "cpu":
        return matmul_setting.CPU.hold("ieee")
    return matmul_setting.GPU.hold("tf32" if resolved == "fast" else "ieee")
