"""The time that a launch is predicted to take: what a CTA issues, how many a multiprocessor takes, and when.

All samples are taken to be alike, and the CTAs of a multiprocessor to begin at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...cases import Case
from .code import INSTRUCTION_BYTES, CudaKernel
from .floor import INSTRUCTIONS, Useful, useful
from .launch import Launch
from .phases import EPILOGUES, PRODUCTS, Phase, Phases
from .pipeline import SCHEDULERS, Timing, Unit, simulate
from .rates import Rates
from .registers import WARP
from .walk import Trace, Walk

REGISTER_UNIT = 256  # registers that a warp is given at once


@dataclass(frozen=True)
class Prediction:
    """Of one launch. ``walked`` has the phases of one CTA among ``resident`` on its multiprocessor.

    ``floor`` is what tensor cores take for the useful products, ``memory`` what DRAM takes, both in
    microseconds; ``passed_bytes`` of machine code are passed at least once.
    """

    launch: Launch
    kernel: CudaKernel
    useful: Useful
    resident: int
    microseconds: float
    floor: float
    memory: float
    passed_bytes: int
    timing: Timing
    walked: Phases

    @property
    def phases(self) -> dict[str, Phase]:
        return self.walked.phases

    @property
    def executed(self) -> int:
        """Products of blocks, of one sample."""
        return sum(phase.counts["HMMA"] for phase in self.phases.values()) // INSTRUCTIONS

    @property
    def issued(self) -> int:
        """Instructions of warps, of one sample."""
        return sum(sum(phase.counts.values()) for phase in self.phases.values())

    def step(self) -> dict[str, float]:
        """Instructions of all warps for a step of k in a product of the iteration."""
        return {kind: count / self.useful.steps for kind, count in self.phases[PRODUCTS].counts.items()}

    def epilogue(self) -> dict[str, float]:
        """Instructions for a block of an epilogue."""
        phase = self.phases[EPILOGUES]
        blocks = max(phase.epilogues, 1) * self.useful.blocks
        return {kind: count / blocks for kind, count in phase.counts.items()}

    def busy(self, unit: Unit) -> float:
        return self.timing.busy[unit] / self.timing.cycles


def predict(case: Case, launch: Launch, kernel: CudaKernel, rates: Rates) -> Prediction:
    """Walk through a kernel for one sample, and let the model of a multiprocessor take what that gives.

    Raises:
        NotUnderstood: there is machine code that the walk has no meaning for.
        ValueError: fewer products are executed than are held to be useful: that count is behind the kernels.
    """
    walk = Walk(kernel.instructions, kernel.arch, launch.arguments, launch.threads, launch.shared_bytes, kernel.tables)
    trace = walk.run()
    count = useful(launch.kernel, case.channels, case.positions, case.n_iter, case.precision)
    resident = resident_ctas(launch, kernel, rates)
    multiprocessors = int(rates.multiprocessors.value)
    # The busiest multiprocessor: rounds in which it is full, and a last one with the rest.
    samples = -(-case.batch // multiprocessors)
    phases = Phases(trace, launch.blocks)
    timing, cycles = rounds(trace, rates, samples, resident, phases.starts())
    phases.time(timing.times)
    megahertz = rates.clock_ghz.value * 1e3
    product = INSTRUCTIONS * rates.product.value / SCHEDULERS
    memory = necessary_bytes(case, launch.kernel) / rates.dram_gb_per_s.value / 1e3
    found = Prediction(
        launch,
        kernel,
        count,
        resident,
        max(cycles / megahertz, memory),
        count.products * product * case.batch / multiprocessors / megahertz,
        memory,
        INSTRUCTION_BYTES * trace.passed,
        timing,
        phases,
    )
    if found.executed < count.products:
        raise ValueError(
            f"{launch.kernel} executes {found.executed} products of blocks for {case.label}, and benchmarks/"
            f"floor.py holds {count.products} to be useful"
        )
    return found


def rounds(trace: Trace, rates: Rates, samples: int, resident: int, noted: list[list[int]]) -> tuple[Timing, float]:
    """Time the fullest round of a multiprocessor, and give the cycles of all rounds."""
    full, rest = divmod(samples, resident)
    if not full:
        timing = simulate(trace, rates, rest, noted)
        return timing, timing.cycles
    timing = simulate(trace, rates, resident, noted)
    return timing, full * timing.cycles + (simulate(trace, rates, rest, noted).cycles if rest else 0.0)


def resident_ctas(launch: Launch, kernel: CudaKernel, rates: Rates) -> int:
    """How many CTAs find room on a multiprocessor; where each takes several samples, no more are launched."""
    warps = launch.threads // WARP
    registers = warps * (-(-kernel.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT)
    shared = launch.shared_bytes + rates.cta_reserve.value
    return int(
        min(
            rates.ctas.value,
            rates.warps.value // warps,
            rates.registers.value // registers,
            rates.shared_bytes.value // shared,
        )
    )


def necessary_bytes(case: Case, kernel: str) -> int:
    """Read the features and, backward, the gradient of the triangle; write what is asked for: each once."""
    size = 4 if case.dtype == "float32" else 2
    features, triangle = case.channels * case.positions, case.channels * (case.channels + 1) // 2
    return size * case.batch * (triangle + features * (2 if "backward" in kernel else 1))
