"""The figures of a compiled kernel, and what is not accepted of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gcp_kernels.architectures import TARGETS

KIB = 1024

# Shared memory that a block may have, by compute capability.
SHARED_LIMIT = {capability: target.shared_bytes for capability, target in TARGETS.items()}
# Columns of a multiprocessor's tensor memory, which sm_100 has.
TENSOR_MEMORY_LIMIT = 512
# Bytes of registers that a thread may spill. What is shipped spills between its loops of products, with at most a few
# loads in a step: some hundred accesses to the L1 cache in a tile's tens of thousands of instructions. How many bytes
# it is changes by a hundred or two from one Triton to the next, so no search drops a configuration for it: below the
# bound the clock decides. What spills in every step takes several times as much.
SPILL_LIMIT = 512


@dataclass(frozen=True)
class Figures:
    """What the assembler made of a kernel.

    ``stack`` is in bytes per thread, ``shared`` in bytes per block, ``tensor_memory`` in columns. ``products`` are
    those in Triton's IR, all other counts are of instructions: LDL and STL (``loads`` and ``stores`` of what is
    spilled), those of tensor cores by name, LDSM, traps, all, and by kind those of a trip through each loop of
    products. ``unwaited`` has every access to a product that may not have ended, ``seconds`` is the compiler's
    time. Where ``failure`` says why there is no program, the rest is zero.
    """

    registers: int = 0
    stack: int = 0
    loads: int = 0
    stores: int = 0
    shared: int = 0
    tensor_memory: int = 0
    products: int = 0
    tensor_cores: dict[str, int] = field(default_factory=dict)
    ldsm: int = 0
    traps: int = 0
    instructions: int = 0
    loops: tuple[dict[str, int], ...] = ()
    unwaited: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    failure: str | None = None


def problems(arch: int, figures: Figures) -> list[str]:
    """Give what is not accepted.

    More spilled registers than :data:`SPILL_LIMIT`, more memory than a block may have, products without tensor cores,
    products that are read before they have ended.
    """
    if figures.failure is not None:
        return [f"it does not compile: {figures.failure}"]
    found = []
    if figures.stack > SPILL_LIMIT:
        spilled = f"{figures.stack} bytes (LDL {figures.loads}, STL {figures.stores})"
        found.append(f"it spills {spilled}, of {SPILL_LIMIT} at most")
    if figures.shared > SHARED_LIMIT[arch]:
        limit = f"sm_{arch} gives a block {SHARED_LIMIT[arch]}"
        found.append(f"it needs {figures.shared} bytes of shared memory, {limit}")
    if figures.tensor_memory > TENSOR_MEMORY_LIMIT:
        found.append(f"it needs {figures.tensor_memory} columns of tensor memory of {TENSOR_MEMORY_LIMIT}")
    if figures.products and not sum(figures.tensor_cores.values()):
        found.append(f"no instruction of tensor cores computes its products ({figures.products} in Triton's IR)")
    if figures.unwaited:
        found.append(f"it does not wait for the product before {figures.unwaited[0]}")
    return found
