"""What `make` sets for the build of the CUDA extension: it is compiled for the GPUs that are here, and for no other.

Run as a script in the environment that has torch; prints a variable for ``env``, or nothing where one is set already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

OLDEST = (8, 0)  # whose instructions csrc takes
NEVER = "GCP_KERNELS_CUDA=0"


def main() -> None:
    if not {"GCP_KERNELS_CUDA", "TORCH_CUDA_ARCH_LIST"} & set(os.environ):
        print(setting(capabilities(), known_to_nvcc()))


def setting(found: Sequence[tuple[int, int]], known: Sequence[str] | None) -> str:
    """Name the architectures of GPUs that nvcc can compile for; of none, that no extension is to be built.

    Without nvcc nothing is set: the build then says what is missing.
    """
    able = sorted(capability for capability in set(found) if capability >= OLDEST)
    if known is None and able:
        return ""
    names = [f"{major}.{minor}" for major, minor in able if f"sm_{major}{minor}" in (known or ())]
    return f"TORCH_CUDA_ARCH_LIST={';'.join(names)}" if names else NEVER


def capabilities() -> list[tuple[int, int]]:
    import torch

    return [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]


def known_to_nvcc() -> list[str] | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = (
        shutil.which(f"{home}/bin/nvcc") if home else shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    )
    if nvcc is None:
        return None
    return subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()


if __name__ == "__main__":
    main()
