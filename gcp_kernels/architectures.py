"""The GPU architectures: what machine code is built for, what a block may have, and which launch choices serve them.

It imports nothing of the package, nor torch: setup.py runs this file by its path.
"""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """An architecture, by its compute capability as one number.

    ``shared_kib`` is the shared memory that a block may have (CUDA C++ Programming Guide, technical specifications);
    ``choices`` names the launch choices of the Triton backend in its policy; ``build`` is what TORCH_CUDA_ARCH_LIST
    calls it, where the extension has machine code of its own for it.
    """

    capability: int
    gpus: str
    shared_kib: int
    choices: str
    build: str | None = None

    @property
    def name(self) -> str:
        """What nvcc calls it."""
        return f"sm_{self.capability}"

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory that a block may have."""
        return self.shared_kib << 10


# What is compiled for one GPU runs on every later one of the same major number: 10.0 serves B200 and B300 (10.3). PTX
# is for what is between and after.
TARGETS = {
    target.capability: target
    for target in (
        Target(80, "A100", 163, "AMPERE", "8.0"),
        Target(86, "A40, GeForce 30", 99, "AMPERE"),
        Target(87, "Jetson Orin", 163, "AMPERE"),
        Target(89, "L40, GeForce 40", 99, "AMPERE"),
        Target(90, "H100, H200", 227, "HOPPER", "9.0+PTX"),
        Target(100, "B200", 227, "BLACKWELL", "10.0"),
        Target(103, "B300", 227, "BLACKWELL"),
        Target(120, "GeForce 50", 99, "BLACKWELL_CONSUMER", "12.0+PTX"),
        Target(121, "GB10", 99, "BLACKWELL_CONSUMER"),
    )
}

# Those for which everything is compiled, by name as TORCH_CUDA_ARCH_LIST has them.
BUILT = {target.name: target.build for target in TARGETS.values() if target.build is not None}

# Where the kernels of both backends have run, for what these say of themselves.
HAVE_RUN = "run on compute capability 9.0 (an H100), on no other yet"

# The first architecture that each of the launch choices serves.
FIRST_WITH = {target.choices: capability for capability, target in sorted(TARGETS.items(), reverse=True)}


def choices_of(capability: int) -> str:
    """Name the launch choices for a compute capability: those of the newest listed architecture up to it.

    If all listed ones are newer, those of the oldest.
    """
    older = [known for known in TARGETS if known <= capability]
    return TARGETS[max(older, default=min(TARGETS))].choices
