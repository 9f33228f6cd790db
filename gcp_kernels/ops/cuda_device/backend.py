"""The CUDA C++ backend, from the compiled extension ``gcp_kernels._C``: one thread block pools one sample.

It serves iSQRT-COV pooling of up to 256 channels, or of up to 256 positions and 8192 channels, on the side that
:func:`side_of` chooses; and plain covariances of up to 256 channels. Each is one launch, forward and backward. Every
matrix of the sample is in shared memory where that is large enough. It also serves ``triu_vec`` and ``triu_unvec`` of
any size.

Before a CUDA graph is captured, call once what it will contain, forward and backward, with the same number of channels,
dtype and precision. The first call of a kernel loads its code, which must not happen during a capture.

Matrices that do not fit are streamed from slabs: memory that each call takes from torch's allocator. On the side of the
positions each block of threads has the features there too, backward split into two halves, and as much again of a
product with them: in "fast" 0.7 MB backward at 256 channels and 196 positions, and 17 MB at 8192 and 256. In torch's
deterministic mode (``torch.use_deterministic_algorithms(True)``) torch fills fresh memory with NaN, so each call then
writes up to 110 MB on an H100 on the side of the channels, and all of these on that of the positions.
``torch.utils.deterministic.fill_uninitialized_memory = False`` avoids that. The kernels need neither setting: two runs
give the same bits.

The kernels compute the right values under an emulation on a CPU and, each in every form and dtype, on an H100
(benchmarks/results/h100-2026-11-27-second, commit 35e1129). memcheck found no error in them before their stores of
results changed (commit ea94d2b); racecheck has found no hazard since, in 46 of 106 checks. What changed after those
runs has run under emulation only: the last two iterations are one, forward and, on the side of the positions, backward,
for three iterations or more; and on the side of the channels a backward pass whose matrices are all on chip reads the
upstream gradient from a copy in shared memory. The operators that exported programs call, of names that end in
``_inference``, launch the same kernels and have run on no GPU. For sm_80, sm_100 and sm_120 they compile and have not
run; tensors beyond 2^31 elements have been tested on no GPU. The extension is optional (see ``GCP_KERNELS_CUDA`` in
setup.py). Importing this module never needs it: it is loaded when an operation first asks for it, and :func:`why_not`
says why it cannot be.
"""

from __future__ import annotations

import torch

from gcp_kernels.architectures import HAVE_RUN
from gcp_kernels.precision import PLANES, resolve_precision

from ..sides import POSITIONS
from .extension import build_detail, why_not_device, why_not_loaded, why_not_positions, why_not_size
from .side import side_of

POOLING_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = {
    "isqrt_pool": POOLING_DTYPES,
    "covariance_pool": POOLING_DTYPES,
    "triu_vec": (*POOLING_DTYPES, torch.float64),
    "triu_unvec": (*POOLING_DTYPES, torch.float64),
}
OPERATIONS = tuple(DTYPES)
__all__ = ["DTYPES", "OPERATIONS", "side_of", "status", "why_not"]

# As in csrc/policy.h, where positions are 32-bit.
MOST_POSITIONS = 2**30


def why_not(operation: str, tensor: torch.Tensor, precision: str = "default") -> str | None:
    """Say why this backend cannot run ``operation`` on ``tensor``, as a sentence fragment; ``None`` means that it can.

    The precision decides how much shared memory a sample takes. A plain covariance takes the same in both.
    """
    if operation not in OPERATIONS:
        return f"{operation} has no CUDA kernel in this version"
    if (reason := why_not_loaded()) is not None:
        return reason
    if not tensor.is_cuda:
        return f"it needs a CUDA tensor, got one on {tensor.device}"
    if tensor.dtype not in DTYPES[operation]:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES[operation])
        return f"it supports {allowed}, got {tensor.dtype}"
    index = tensor.get_device()
    if (reason := why_not_device(index)) is not None or operation.startswith("triu"):
        return reason
    _, c, m = tensor.shape
    if m > MOST_POSITIONS:
        return f"it supports up to 2^30 positions, got {m}"
    planes = PLANES[resolve_precision(precision, tensor.dtype)] if operation == "isqrt_pool" else 1
    if operation == "isqrt_pool" and side_of(c, m) == POSITIONS:
        return why_not_positions(c, m, planes, index)
    return why_not_size(c, planes, index)


def status() -> str:
    """Say in one line, for ``python -m gcp_kernels info``, what it serves here, or why nothing."""
    if (reason := why_not_loaded()) is not None:
        return f"unavailable: {reason}"
    return f"loaded (built with {build_detail()}); serves {', '.join(OPERATIONS)}; {HAVE_RUN}"
