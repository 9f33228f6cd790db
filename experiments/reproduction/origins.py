"""Where runs are from: commit, day, machine and time, kept with each and said in reports."""

import platform
from datetime import date
from pathlib import Path

import torch

from gcp_kernels.commands.checkout import commit_of

from ..running import Log
from .words import plural

CHECKOUT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def origin(device: torch.device = CPU) -> dict[str, str]:
    """Return what a :class:`Log` is to keep with every run of networks on this device."""
    return {"commit": commit_of(CHECKOUT), "date": date.today().isoformat(), "machine": machine_name(device)}


def machine_name(device: torch.device) -> str:
    """Return a GPU's name, or the kind of CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def how_made(log: Log) -> list[str]:
    """Say in a line for each commit, day and machine how many runs it made, and in how many minutes together."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for key in log:
        made = log.made(key)
        groups.setdefault((made["commit"], made["date"], made["machine"]), []).append(made["seconds"])
    return [
        f"{plural(len(seconds), 'run')} of {sum(seconds) / 60:.1f} minutes in all: commit {commit}, {day}, {machine}"
        for (commit, day, machine), seconds in groups.items()
    ]
