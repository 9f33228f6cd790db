"""What `make` has the extension compiled for: the GPUs that are here, as far as csrc and nvcc can serve them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extension_for_this_gpu import NEVER, setting

ROOT = Path(__file__).parents[2]
KNOWN = ["sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("found", "known", "expected"),
    [
        ([], KNOWN, NEVER),  # no GPU
        ([], None, NEVER),
        ([(9, 0)], KNOWN, "TORCH_CUDA_ARCH_LIST=9.0"),
        ([(9, 0), (8, 6), (9, 0)], KNOWN, "TORCH_CUDA_ARCH_LIST=8.6;9.0"),
        ([(7, 5)], KNOWN, NEVER),  # older than what csrc takes
        ([(12, 0)], KNOWN, NEVER),  # newer than this nvcc
        ([(7, 5), (12, 0), (8, 0)], KNOWN, "TORCH_CUDA_ARCH_LIST=8.0"),
        ([(9, 0)], None, ""),  # the build says that nvcc is missing
    ],
)
def test_the_gpus_that_can_be_served_are_named(found, known, expected):
    assert setting(found, known) == expected


@pytest.mark.parametrize("variable", ["GCP_KERNELS_CUDA", "TORCH_CUDA_ARCH_LIST"])
def test_what_is_set_already_is_left(variable, monkeypatch):
    monkeypatch.setenv(variable, "0")
    script = ROOT / "tests" / "support" / "extension_for_this_gpu.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == ""
