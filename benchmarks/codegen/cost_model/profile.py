"""What a profile on a GPU says of the phases of a kernel: samples of its warps, shared out among them.

Nsight Compute looks every few hundred cycles at what each warp waits for, and at which instruction. ``ncu --import
REPORT --page source --csv`` prints the samples instruction by instruction; a walk through the same machine code says
which phase each instruction is of. So the shares of phases that were measured stand beside those that are predicted.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..static_extension import FORMS, PRECISIONS
from .code import CudaKernel
from .phases import Phases
from .registers import Array

NAME, HEADER = "Kernel Name", "Address"
DEMANGLED = re.compile(r"(\w+)<\(gcp_kernels::Form\)(\d), \(int\)(\d)>")
REASON = re.compile(r"stall_(\w+)")  # not those with a remark behind: a column of the samples that issued nothing
BARRIER = "barrier"

# By phase, then by what a warp waited for, or "selected" where it issued: samples.
Samples = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Profile:
    """Of one kernel: its name and variant as :mod:`benchmarks.codegen.static_extension` gives them.

    And samples by reason, one number for each instruction.
    """

    name: str
    variant: str
    samples: dict[str, Array]

    def of_phases(self, kernel: CudaKernel, phases: Phases) -> Samples:
        """Share the samples out: of an instruction that several phases issue, to each as often as it does.

        A warp passes a barrier and waits for it at an instruction further on, the first that must not come before it: a
        wait for a barrier belongs to the phase that the last one ended.

        Raises:
            ValueError: the profile is of other machine code.
        """
        count = len(kernel.instructions)
        if any(len(numbers) != count for numbers in self.samples.values()):
            raise ValueError(f"the profile of {self.name} {self.variant} is of other machine code than the extension's")
        issued: dict[str, Array] = defaultdict(lambda: np.zeros(count))
        behind: dict[str, Array] = defaultdict(lambda: np.zeros(count))
        for numbers, names, barriers in phases.issued():
            places = np.arange(len(numbers))
            last = np.maximum.accumulate(np.where(barriers, places, -1))[:-1]
            ended = np.where(np.append(-1, last) < 0, names, names[np.append(0, last)])
            for weights, of_phase in ((issued, names), (behind, ended)):
                for phase in np.unique(of_phase):
                    np.add.at(weights[phase], numbers[of_phase == phase], 1.0)
        found: Samples = {}
        for reason, numbers in self.samples.items():
            shared_out(numbers, behind if reason == BARRIER else issued, reason, found)
        return found


def shared_out(numbers: Array, weights: dict[str, Array], reason: str, found: Samples) -> None:
    """Add the samples of a reason to those of the phases, by their weights at each instruction."""
    total = np.maximum(sum(weights.values()), 1.0)
    for phase, weight in weights.items():
        of_phase = found.setdefault(phase, {})
        of_phase[reason] = of_phase.get(reason, 0.0) + float((numbers * weight / total).sum())


def read(path: Path) -> list[Profile]:
    """Read what ``ncu --page source --csv`` printed: kernel after kernel.

    Raises:
        ValueError: there is no kernel of the pooling in it.
    """
    profiles: list[Profile] = []
    rows: list[list[str]] = []
    name = ""
    for row in csv.reader(path.read_text(encoding="utf-8").splitlines()):
        if row[:1] == [NAME]:
            profiles += of_rows(name, rows)
            name, rows = row[1], []
        else:
            rows.append(row)
    profiles += of_rows(name, rows)
    if not profiles:
        raise ValueError(f"{path} has no profile of a pooling kernel, as ncu --page source --csv prints it")
    return profiles


def of_rows(name: str, rows: Sequence[Sequence[str]]) -> list[Profile]:
    """Make the profile of one kernel; none of what is no kernel of the pooling."""
    match = DEMANGLED.search(name)
    start = next((place for place, row in enumerate(rows) if row[:1] == [HEADER]), None)
    if match is None or start is None:
        return []
    header, lines = rows[start], [row for row in rows[start + 1 :] if len(row) == len(rows[start])]
    reasons = {column: found[1] for column, text in enumerate(header) if (found := REASON.fullmatch(text))}
    samples = {reason: np.array([number(line[column]) for line in lines]) for column, reason in reasons.items()}
    return [Profile(match[1], f"{FORMS[int(match[2])]} {PRECISIONS[int(match[3])]}", samples)]


def number(text: str) -> float:
    """Read a number as ncu writes it, with commas; nothing is none."""
    return float(text.replace(",", "") or 0)


def described(samples: Samples, phase: str, reasons: int = 3) -> str:
    """Say which share of all samples a phase has, and what its warps waited for most."""
    total = sum(sum(of_phase.values()) for of_phase in samples.values())
    own = samples.get(phase, {})
    all_own = sum(own.values())
    most = sorted(own, key=lambda reason: own[reason], reverse=True)[:reasons]
    waits = ", ".join(f"{reason} {100 * own[reason] / max(all_own, 1.0):.0f} %" for reason in most)
    return f"{100 * all_own / max(total, 1.0):3.0f} % ({waits})"
