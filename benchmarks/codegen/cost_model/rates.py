"""What a multiprocessor does in a cycle, by architecture: documented where a source is named, else assumed, by name.

Sources
    GUIDE: CUDA C++ Programming Guide, throughput of native arithmetic instructions, and technical specifications per
        compute capability.
    PAPER: NVIDIA's white papers on the architectures A100, H100 and RTX Blackwell.
    BENCH: "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", arXiv 2402.13499: latencies on A100 and
        H100; and that mma.sync reaches 62.9 % of the peak of Hopper's tensor cores, which only wgmma reaches.
    ASSUMED: nobody has measured it for these kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

GUIDE, PAPER, BENCH, ASSUMED = "guide", "white paper", "arXiv 2402.13499", "assumed"
# Arithmetic of an m16n8k16 product, in multiplications with an addition.
PRODUCT = 16 * 8 * 16


@dataclass(frozen=True)
class Rate:
    """A number and where it is from."""

    value: float
    source: str


@dataclass(frozen=True)
class Rates:
    """One GPU of an architecture. Times are in cycles of its clock.

    Attributes:
        clock_ghz, multiprocessors, dram_gb_per_s: of the GPU.
        shared_bytes: of a multiprocessor; ``cta_reserve`` of them the system takes for each CTA.
        product: of one m16n8k16 product by mma.sync on one of the four tensor cores.
        product_latency: until its sums can be read.
        float_instruction, integer, multiply, conversion, special: how long an instruction of a warp keeps its unit, of
            which each quarter of the multiprocessor has one of each kind.
        shared_wavefront: of 128 bytes of shared memory; an LDSM of four tiles takes four.
        shared_queue: accesses to shared memory that wait, in wavefronts, before the next cannot be issued.
        sector: of 32 bytes between the L2 cache and a multiprocessor.
        arithmetic_latency, shared_latency, global_latency, special_latency: until a result can be used.
        branch: from a jump until the instruction that it leads to.
        barrier: from the last thread's arrival until all go on.
    """

    gpu: str
    clock_ghz: Rate
    multiprocessors: Rate
    dram_gb_per_s: Rate
    shared_bytes: Rate
    warps: Rate
    ctas: Rate
    product: Rate
    product_latency: Rate
    integer: Rate
    sector: Rate
    shared_latency: Rate
    global_latency: Rate
    float_instruction: Rate = Rate(1, f"{GUIDE}: 128 results in a cycle")
    multiply: Rate = Rate(2, f"{GUIDE}: 64 results in a cycle; {ASSUMED} beside other integers")
    conversion: Rate = Rate(2, f"{GUIDE}: 64 results in a cycle")
    special: Rate = Rate(8, f"{GUIDE}: 16 results in a cycle")
    shared_wavefront: Rate = Rate(1, f"{GUIDE}: 32 banks of 4 bytes in a cycle")
    shared_queue: Rate = Rate(64, ASSUMED)
    arithmetic_latency: Rate = Rate(4, f"{ASSUMED}, as on Volta")
    special_latency: Rate = Rate(18, ASSUMED)
    branch: Rate = Rate(8, ASSUMED)
    barrier: Rate = Rate(30, ASSUMED)
    cta_reserve: Rate = Rate(1024, GUIDE)
    registers: Rate = Rate(65536, GUIDE)

    def named(self) -> dict[str, Rate]:
        """Every rate by its name."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Rate)}


def at_peak(per_cycle: int, share: float = 1.0) -> float:
    """Cycles of a product on one of four tensor cores, from the multiplications of all four in a cycle."""
    return PRODUCT / (per_cycle / 4) / share


_AS_HOPPER = f"{ASSUMED}, as on H100"
_SMEM, _L2 = Rate(29, BENCH), Rate(263, f"{BENCH}: a hit in L2")

RATES = {
    80: Rates(
        "A100", Rate(1.41, PAPER), Rate(108, PAPER), Rate(1555, PAPER), Rate(164 << 10, GUIDE), Rate(64, GUIDE),
        Rate(32, GUIDE), Rate(at_peak(1024), f"{PAPER}: 1024 multiplications in a cycle; {ASSUMED} to be reached"),
        Rate(33, f"{ASSUMED}, as on H100"), Rate(2, f"{GUIDE}: 64 results in a cycle"),
        Rate(0.5, f"{PAPER}: 64 bytes in a cycle"), _SMEM, Rate(261, f"{BENCH}: a hit in L2"),
    ),
    90: Rates(
        "H100", Rate(1.75, ASSUMED), Rate(132, PAPER), Rate(3350, PAPER), Rate(228 << 10, GUIDE), Rate(64, GUIDE),
        Rate(32, GUIDE), Rate(at_peak(2048, 0.629), f"{PAPER}: 2048 multiplications in a cycle; {BENCH}: 62.9 % of it"),
        Rate(33, f"{ASSUMED} after {BENCH}"), Rate(2, f"{GUIDE}: 64 results in a cycle"),
        Rate(0.5, f"{ASSUMED}, 64 bytes in a cycle as on A100"), _SMEM, _L2,
    ),
    100: Rates(
        "B200", Rate(1.85, ASSUMED), Rate(148, ASSUMED), Rate(8000, PAPER), Rate(228 << 10, GUIDE), Rate(64, GUIDE),
        Rate(32, GUIDE), Rate(at_peak(2048, 0.629), _AS_HOPPER), Rate(33, _AS_HOPPER), Rate(2, _AS_HOPPER),
        Rate(0.5, _AS_HOPPER), Rate(29, _AS_HOPPER), Rate(263, _AS_HOPPER),
    ),
    120: Rates(
        "GeForce RTX 5090", Rate(2.41, PAPER), Rate(170, PAPER), Rate(1792, PAPER), Rate(100 << 10, GUIDE),
        Rate(48, GUIDE), Rate(24, GUIDE), Rate(at_peak(256), f"{PAPER}: 209.5 TFLOP/s with sums in float32"),
        Rate(33, _AS_HOPPER), Rate(2, _AS_HOPPER), Rate(0.5, _AS_HOPPER), Rate(29, _AS_HOPPER), Rate(263, _AS_HOPPER),
    ),
}  # fmt: skip
