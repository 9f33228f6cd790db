"""Whether the CUDA extension is here, and the compiler that builds it: marks for tests that need them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import torch

# Skipped by conftest.py, with the reason, where it is not.
built = pytest.mark.extension


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
