"""What a figure must be read with: machine, versions, commit, threads, and the state of the GPU at the time."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from datetime import date
from pathlib import Path

import torch

import gcp_kernels
from gcp_kernels.commands.checkout import commit_of

CHECKOUT = Path(__file__).resolve().parent.parent
# Fields of nvidia-smi and the names under which rows carry them; read, never set.
GPU_STATE = {
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
}


def environment(device: torch.device) -> dict[str, str | float]:
    """Describe the machine, with the same fields everywhere; "none" for what it does not have."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(),
        "device_type": device.type,
        "driver": driver_version(device) if cuda else "none",
        "cuda": torch.version.cuda or "none",
        "torch": torch.__version__,
        "triton": triton_version(),
        "python": platform.python_version(),
        "gcp_kernels": gcp_kernels.__version__,
        "commit": commit(),
        "date": date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count() or 0,
    }


def machine_state(device: torch.device) -> dict[str, float]:
    """Find how busy the machine is, and on a GPU :func:`gpu_state`, for the rows; leave out what cannot be found."""
    load = {"load": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}
    return {**load, **gpu_state(device)}


def cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def triton_version() -> str:
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError:
        return "none"


def commit() -> str:
    """Find the checkout's commit; see :func:`gcp_kernels.commands.checkout.commit_of`."""
    return commit_of(CHECKOUT)


def heading(command: str, *versions: str) -> str:
    """Give the first line of a table without a machine: the command, the commit, the date, and versions."""
    return f"{command}   ({', '.join([f'commit {commit()}', date.today().isoformat(), *versions])})\n"


def driver_version(device: torch.device) -> str:
    return (nvidia_smi(device, ("driver_version",)) or ["unknown"])[0]


def gpu_state(device: torch.device) -> dict[str, float]:
    """Read clocks, temperature and power; empty on a CPU, without nvidia-smi, and for what the GPU does not tell."""
    if device.type != "cuda":
        return {}
    state = {}
    for name, value in zip(GPU_STATE.values(), nvidia_smi(device, tuple(GPU_STATE)), strict=False):
        try:
            state[name] = float(value)
        except ValueError:  # "[N/A]"
            continue
    return state


def nvidia_smi(device: torch.device, fields: tuple[str, ...]) -> list[str]:
    """Read the fields of this GPU, named by its UUID: nvidia-smi numbers GPUs in its own way."""
    program = shutil.which("nvidia-smi")
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if program is None or uuid is None:
        return []
    command = [program, f"--id=GPU-{uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [value.strip() for value in done.stdout.strip().split(",")] if done.returncode == 0 else []
