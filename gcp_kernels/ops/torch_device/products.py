"""Matrix products in the precision asked for, whatever the global settings say."""

from contextlib import AbstractContextManager, nullcontext

import torch

from gcp_kernels import matmul_setting
from gcp_kernels.precision import accumulation_dtype, resolve_precision


def matmul_precision(device: torch.device, dtype: torch.dtype, precision: str) -> AbstractContextManager[None]:
    """Run the products of an operator on features of ``dtype`` as ``precision`` says, inside the block.

    "high" is IEEE float32, "fast" is TF32 on a GPU. On a CPU every product is IEEE float32, because what torch offers
    there instead is bfloat16, ten times less exact than "fast" promises.
    """
    resolved = resolve_precision(precision, dtype)
    if accumulation_dtype(dtype) != torch.float32:
        return nullcontext()
    if device.type == "cpu":
        return matmul_setting.CPU.hold("ieee")
    return matmul_setting.GPU.hold("tf32" if resolved == "fast" else "ieee")
