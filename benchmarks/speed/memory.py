"""Memory of a training step: its peak, and what autograd keeps between forward and backward.

On a GPU both are what torch's allocator counts, in this process. On a CPU the peak is the resident set of a fresh
process: its high-water mark (VmHWM) after the pass, less the resident set just before it, when imports, inputs, thread
pools and compiled code are already there. ``ru_maxrss`` would not do: on Linux a process inherits it from the one that
started it. What is kept is on a CPU the sum of what autograd's hooks see.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..cases import Case, Inputs, Pool, make_inputs
from ..environment import CHECKOUT
from ..peers.providers import Provider, by_name, settings
from ..peers.truth import Judge, step, upstream_of
from ..rows import Row

STATUS = Path("/proc/self/status")
# Samples of the big case that are compared with float64 after the measurement.
CHECKED = 2
TIMEOUT_SECONDS = 900


def with_bytes(row: Row, pool: Pool, inputs: Inputs, upstream: torch.Tensor) -> Row:
    """Add to the row the bytes that are kept for the backward pass and, on a GPU, the peak of a step."""
    features = inputs.features
    if not features.is_cuda:
        return replace(row, saved_bytes=kept_by_hooks(pool, features), saved_method="hooks of autograd")
    device = features.device
    baseline = settle(device)
    pooled = pool(features)
    torch.cuda.synchronize(device)
    kept = torch.cuda.memory_allocated(device) - baseline - pooled.untyped_storage().nbytes()
    del pooled
    baseline = settle(device)
    step(pool, features, upstream)
    peak = high_water(device) - baseline
    return replace(row, saved_bytes=kept, saved_method="allocator", peak_bytes=peak)


def kept_by_hooks(pool: Pool, features: torch.Tensor) -> int:
    """Count the bytes of all storages that autograd saves in a forward pass, without the features and the result."""
    storages: dict[int, int] = {}

    def pack(saved: torch.Tensor) -> torch.Tensor:
        storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        pooled = pool(features)
    for own in (features, pooled):
        storages.pop(own.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@dataclass(frozen=True)
class Peak:
    """Bytes above the baseline and the errors of the very pass that was measured; or why there are none."""

    bytes: int | None = None
    output_error: float | None = None
    gradient_error: float | None = None
    problem: str | None = None


def peak_rows(case: Case, providers: Sequence[Provider], device: torch.device, processes: int) -> list[Row]:
    """Make a row of kind "memory" for each provider: the smallest peak of several processes of its own.

    How much freed memory malloc hands out again varies between processes; the smallest peak is what a pass needs. In a
    process where another provider was before, what that one left would count for less.
    """
    rows = []
    for provider in providers:
        row = Row.of("memory", "memory", case, provider.name, provider.truth, error_limit=provider.limit(case))
        if (reason := provider.why_not(case, device)) is not None:
            rows.append(replace(row, problem=reason))
            continue
        peaks: list[Peak] = []
        while len(peaks) < processes and not (peaks and peaks[-1].problem):
            peaks.append(peak_of_a_process(provider, case, device))
        rows.append(with_peak(row, peaks))
    return rows


def with_peak(row: Row, peaks: Sequence[Peak]) -> Row:
    """Add to the row the least of the peaks, or the first problem if any process has one."""
    problem = next((peak for peak in peaks if peak.problem), None)
    best = problem or min(peaks, key=lambda peak: peak.bytes or 0)
    return replace(
        row,
        problem=best.problem and f"failing: {best.problem}",
        output_error=best.output_error,
        gradient_error=best.gradient_error,
        peak_bytes=best.bytes,
        method="high-water mark of the resident set",
    )


def peak_of_a_process(provider: Provider, case: Case, device: torch.device) -> Peak:
    """Start a process in which the provider makes one pass of ``case``, and read what it reports."""
    if device.type == "cpu" and not STATUS.exists():
        return Peak(problem=f"needs {STATUS}, which this system does not have")
    command = [sys.executable, "-m", "benchmarks.speed.memory", case.label, str(device), provider.name]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Peak(problem=f"no answer in {TIMEOUT_SECONDS} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return Peak(problem=f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return Peak(**json.loads(lines[-1]))


def one_pass(provider: Provider, case: Case, device: torch.device) -> Peak:
    """Find the peak bytes of one pass above what was there before it, and its errors on the first samples."""
    with settings(provider, case):
        pool = provider.build(case)
        # Two samples are enough to load libraries, start threads and fill tables; code is compiled for a batch size.
        warm = make_inputs(case if provider.compiles else replace(case, batch=min(2, case.batch)), device)
        step(pool, warm.features, upstream_of(provider.truth, warm))
        del warm
        inputs = make_inputs(case, device)
        upstream = upstream_of(provider.truth, inputs)
        baseline = settle(device)
        found = step(pool, inputs.features, upstream)
        peak = high_water(device) - baseline
    errors = Judge(case, inputs, min(CHECKED, case.batch)).compare(found, provider.truth)
    if not errors.within(provider.limit(case)):
        return Peak(None, None, None, f"error {errors} against float64, limit {provider.limit(case):.1e}")
    return Peak(peak, errors.output, errors.gradient)


def settle(device: torch.device) -> int:
    """Give back what is free, restart the high-water mark, and return the bytes in use: the baseline."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # Freed memory that malloc keeps would be used by the pass without showing in its peak.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def high_water(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return status_bytes("VmHWM")


def status_bytes(field: str) -> int:
    """Read a field of /proc/self/status, which counts in KiB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no field {field}")


def main() -> int:
    parser = argparse.ArgumentParser(description="One pass of a provider; prints a line of JSON.")
    parser.add_argument("case", type=Case.parse)
    parser.add_argument("device", type=torch.device)
    parser.add_argument("provider", type=by_name)
    args = parser.parse_args()
    print(json.dumps(vars(one_pass(args.provider, args.case, args.device))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
