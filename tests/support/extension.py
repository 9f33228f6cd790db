"""Whether the CUDA extension is here, and the compiler that builds it: marks for tests that need them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import torch

from gcp_kernels.ops.cuda_device import extension

built = pytest.mark.skipif(extension.why_not_loaded() is not None, reason=str(extension.why_not_loaded()))


def find_nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and (nvcc := shutil.which(f"{home}/bin/nvcc")):
            return nvcc
    return shutil.which("nvcc")


NVCC = find_nvcc()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


gpu = [
    pytest.mark.gpu,
    built,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
