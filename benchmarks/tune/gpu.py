"""What a search asks of the machine: the assembler, in processes of its own, and a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..codegen.ahead_of_time import compile_all
from ..codegen.gate import problems
from ..codegen.triton_kernels import KernelCase, TritonKernel, launched
from ..sanitize.triton_pass import Pass
from ..speed import gpu_timing
from ..speed.gpu_timing import Cold
from ..timing import Budget, interleaved

# A pass that takes longer than this for all its turns would have fewer rounds than the others.
PATIENCE = 60.0
# Passes whose numbers and float64 results are kept: as many as the shapes of one entry.
KEPT = 4


class AheadOfTime:
    """Compiles every kernel of the passes, each one once, ``jobs`` at a time."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def problems(self, launches: Sequence[Sequence[KernelCase]], archs: Sequence[int], shared: int) -> list[list[str]]:
        """See :class:`benchmarks.tune.search.Compiler`."""
        asked: list[list[tuple[int, str, str]]] = []
        unique: dict[tuple[int, str, str], TritonKernel] = {}
        for cases in launches:
            kernels = [kernel for arch in archs for case in cases for kernel in launched(case, arch)]
            keys = [(kernel.arch, kernel.name, kernel.specialization) for kernel in kernels]
            asked.append(keys)
            unique.update(zip(keys, kernels, strict=True))
        found: dict[tuple[int, str, str], list[str]] = {}
        for key, figures in zip(unique, compile_all(list(unique.values()), self.jobs), strict=True):
            wrong = problems(key[0], figures)
            if not wrong and figures.shared > shared:
                wrong = [f"it needs {figures.shared} bytes of shared memory, some GPU of its table gives {shared}"]
            found[key] = [f"{key[1]} on sm_{key[0]}: {one}" for one in wrong]
        return [[problem for key in keys for problem in found[key]] for keys in asked]


class Gpu:
    """Runs passes on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._passes: list[Pass] = []

    def error(self, case: KernelCase) -> tuple[float, float]:
        """See :class:`benchmarks.tune.search.Stopwatch`."""
        found = self._pass(case)
        return found.error(case), found.limit()

    def seconds(self, cases: Sequence[KernelCase], rounds: int) -> list[list[float]]:
        """See :class:`benchmarks.tune.search.Stopwatch`; times are of CUDA graphs, with inputs that L2 has not."""
        # Each pass compares a case with the configuration that the tensors were made with.
        first = Pass(cases[0], self.device)
        cold = Cold.of(first.nbytes, gpu_timing.cache_bytes(self.device))
        passes = [first, *(Pass(cases[0], self.device) for _ in range(cold.copies - 1))]
        clocks = {
            str(index): gpu_timing.graph_clock([one.call(case) for one in passes], cold, self.device)
            for index, case in enumerate(cases)
        }
        times = interleaved(clocks, Budget.on(self.device, rounds, provider=PATIENCE))
        del clocks, passes, first
        torch.cuda.empty_cache()
        return [times[str(index)] for index in range(len(cases))]

    def _pass(self, case: KernelCase) -> Pass:
        """Give the tensors for the shape of a case, from an earlier one where there is one."""
        for one in self._passes:
            alike = (one.case.form == "covariance") == (case.form == "covariance")
            if alike and replace(case, choice=one.case.choice) == one.case:
                return one
        self._passes = [*self._passes[-KEPT + 1 :], Pass(case, self.device)]
        return self._passes[-1]
