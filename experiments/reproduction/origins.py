"""Where runs are from: commit, day, machine and time, kept with each and said in reports."""

import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from gcp_kernels import __version__
from gcp_kernels.commands.checkout import commit_of
from gcp_kernels.ops import backends

from ..datasets import ImageData
from ..running import Log
from .words import plural

CHECKOUT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def versions_of(data: ImageData, device: torch.device) -> dict[str, str]:
    """Return what the runs of networks depend on beside settings; on a GPU with the backends whose kernels are there.

    Two backends differ by rounding, and training makes more of that: runs of the one are not mixed with the other's.
    """
    versions = {"gcp_kernels": __version__, "torch": torch.__version__, "images": data.fingerprint()}
    if device.type == "cuda":
        features = torch.empty(1, 2, 2, device=device)
        names = backends.auto_order(device.type)
        versions["kernels"] = ", ".join(
            name for name in names if backends.BACKENDS[name].why_not("isqrt_pool", features) is None
        )
    return versions


def origin(device: torch.device = CPU, processes: int = 1) -> dict[str, Any]:
    """Return what a :class:`Log` is to keep with every run of networks on this device, so many at a time."""
    made = {"commit": commit_of(CHECKOUT), "date": date.today().isoformat(), "machine": machine_name(device)}
    return {**made, "at_a_time": processes} if device.type == "cuda" else made


def machine_name(device: torch.device) -> str:
    """Return a GPU's name, or the kind of CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def how_made(log: Log) -> list[str]:
    """Say in a line for each commit, day and machine how many runs it made, and in how many minutes together.

    Several on one GPU share it, unlike the cores of a CPU, so that their minutes say something only with their number.
    """
    groups: dict[tuple[str, str, str, int], list[float]] = {}
    for key in log:
        made = log.made(key)
        group = (made["commit"], made["date"], made["machine"], made.get("at_a_time", 1))
        groups.setdefault(group, []).append(made["seconds"])
    return [
        f"{plural(len(seconds), 'run')} of {sum(seconds) / 60:.1f} minutes in all{shared(at_a_time)}: "
        f"commit {commit}, {day}, {machine}"
        for (commit, day, machine, at_a_time), seconds in groups.items()
    ]


def shared(at_a_time: int) -> str:
    """Say how many runs shared a GPU; nothing for one alone."""
    return "" if at_a_time == 1 else f", up to {at_a_time} at a time on the GPU"
