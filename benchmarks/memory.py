"""Peak memory of one forward and backward pass, each provider in a process of its own.

On a GPU it is what torch's allocator counts. On a CPU it is the resident set: the high-water mark of this
process (VmHWM) after the pass, less the resident set just before it, when imports, inputs, thread pools and
compiled code are already there. ``ru_maxrss`` would not do: on Linux a process inherits it from the one that
started it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from . import cases, peers

CHECKOUT = Path(__file__).resolve().parent.parent
STATUS = Path("/proc/self/status")
# Samples of the big case that are compared with float64 after the measurement.
CHECKED = 2
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Peak:
    """Bytes above the baseline and the errors of the very pass that was measured; or why there are none."""

    bytes: int | None
    errors: cases.Errors | None
    problem: str | None


def measure(provider: peers.Provider, case: cases.Case, device: torch.device, processes: int) -> Peak:
    """The smallest peak of several processes that make one pass each; the first problem if one has any.

    How much freed memory malloc hands out again varies between processes; the smallest peak is what a pass needs.
    """
    peaks = []
    for _ in range(processes):
        peaks.append(measure_once(provider, case, device))
        if peaks[-1].bytes is None:
            return peaks[-1]
    return min(peaks, key=lambda peak: peak.bytes or 0)


def measure_once(provider: peers.Provider, case: cases.Case, device: torch.device) -> Peak:
    """Start a process that makes one pass of ``case`` and read what it reports."""
    if device.type == "cpu" and not STATUS.exists():
        return Peak(None, None, f"needs {STATUS}, which this system does not have")
    command = [sys.executable, "-m", "benchmarks.memory", provider.name, str(case), str(device)]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return Peak(None, None, f"no answer in {TIMEOUT_SECONDS} s")
    lines = {"stdout": done.stdout.strip().splitlines(), "stderr": done.stderr.strip().splitlines()}
    if done.returncode != 0 or not lines["stdout"]:
        return Peak(None, None, f"exit code {done.returncode}: {(lines['stderr'] or ['no message'])[-1]}")
    report = json.loads(lines["stdout"][-1])
    found = cases.Errors(report["output"], report["gradient"])
    if not found.acceptable:
        return Peak(None, found, f"wrong by {max(found.output, found.gradient):.1e} against float64")
    return Peak(report["bytes"], found, None)


def one_pass(provider: peers.Provider, case: cases.Case, device: torch.device) -> tuple[int, cases.Errors]:
    """Peak bytes of one pass above what was there before it, and its errors on the first samples."""
    pool = provider.build(case.n_iter)
    # Two samples are enough to load libraries, start threads and fill tables; code is compiled for a batch
    # size.
    warm = case if provider.compiles else replace(case, batch=min(2, case.batch))
    cases.step(pool, cases.make_inputs(warm, device))
    inputs = cases.make_inputs(case, device)
    baseline = settle(device)
    found = cases.step(pool, inputs)
    return high_water(device) - baseline, cases.errors(found, inputs, case.n_iter, CHECKED)


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
    """A field of /proc/self/status, which counts in KiB."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no field {field}")


def main() -> int:
    parser = argparse.ArgumentParser(description="One pass of one provider; prints a line of JSON.")
    parser.add_argument("provider", type=peers.by_name)
    parser.add_argument("case", type=cases.Case.parse)
    parser.add_argument("device", type=torch.device)
    args = parser.parse_args()
    if args.device.type == "cuda":
        torch.cuda.set_device(args.device)
    peak, found = one_pass(args.provider, args.case, args.device)
    print(json.dumps({"bytes": peak, "output": found.output, "gradient": found.gradient}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
