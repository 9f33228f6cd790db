"""The outcome of one check, and a process that runs checks for another process, one at a time, by their names.

The process may crash or hang: whoever asks knows which check it was running, and goes on with a new process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gcp_kernels.commands.lost_gpu import why_lost
from gcp_kernels.precision import PLANES

from .checks import FunctionCheck, Work

OK, WRONG, CRASHED, HUNG, NOT_RUN = VERDICTS = ("ok", "WRONG", "CRASHED", "HUNG", "NOT RUN")
# Characters of a reason.
MOST_SAID = 2000
# Sent to a process that takes too long: it says where it is.
WHERE = signal.SIGUSR1


@dataclass(frozen=True)
class Outcome:
    """The verdict on a check, and what was measured.

    ``errors`` are the relative errors of value and gradients. ``seconds`` is the time of the first call, compilation
    included. ``layout`` says how many matrices of a CUDA kernel were resident in shared memory on this device.
    ``allowed`` marks a check that this machine cannot run, which is no failure.
    """

    verdict: str
    reason: str = ""
    errors: tuple[float, ...] = ()
    seconds: float | None = None
    allowed: bool = False
    layout: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict != OK and not self.allowed


class Runnable(Protocol):
    """A check, as far as running it goes."""

    @property
    def backend(self) -> str: ...

    @property
    def limit(self) -> float: ...

    def why_not(self, device: torch.device) -> str | None: ...

    def work(self, device: torch.device) -> Work: ...


def outcome_of(check: Runnable, device: torch.device) -> Outcome:
    """Run one check in this process. Whatever it raises is its outcome."""
    seconds, on_device = None, ""
    try:
        if (reason := check.why_not(device)) is not None:
            return Outcome(NOT_RUN, reason, allowed=True)
        on_device = layout(check, device)
        work = check.work(device)
        begun = time.perf_counter()
        found = work.launch()
        synchronize(device)
        seconds = time.perf_counter() - begun
        errors = tuple(work.errors(found))
    except Exception as error:
        # Of a compiler's message, which may be a program, the beginning.
        reason = f"{type(error).__name__}: {error}"[:MOST_SAID]
        return Outcome(CRASHED, reason, seconds=seconds, layout=on_device)
    right = all(error <= check.limit for error in errors)
    return Outcome(OK if right else WRONG, "", errors, seconds, layout=on_device)


def layout(check: Any, device: torch.device) -> str:
    """Count the matrices of the CUDA extension's pooling that are resident in shared memory, forward and backward."""
    if check.backend != "cuda" or check.operation != "isqrt_pool":
        return ""
    limit = torch.ops.gcp_kernels_cuda.shared_memory_limit(device.index)
    counts = [matrices_of(check, backward, limit) for backward in (False, True)]
    return " ".join(f"{resident}/{matrices}" for resident, matrices in counts) + " resident"


def matrices_of(check: FunctionCheck, backward: bool, limit: int) -> tuple[int, int]:
    """Count the matrices of an iSQRT-COV pass that are resident in so much shared memory, and all; none may fit."""
    operators, planes = torch.ops.gcp_kernels_cuda, PLANES[check.precision]
    if check.on_positions:
        resident, matrices, _ = operators.positions_pooling_layout(check.c, check.m, planes, backward, limit)
    else:
        resident, matrices, _ = operators.pooling_layout(check.c, planes, backward, limit)
    return resident, matrices


def synchronize(device: torch.device) -> None:
    """Wait for the device; raises what a kernel did wrong."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lost(device: torch.device) -> bool:
    """Say whether every later check of this process would seem to fail."""
    return device.type == "cuda" and why_lost(device) is not None


def serve(checks: Iterable[Runnable], device: torch.device) -> None:
    """Answer each name on standard input with the outcome of that check, until there is no more, or the device is lost.

    Names and answers are lines of JSON. The answers go to what was standard output; what else is printed, by Python or
    by a library, goes to standard error.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        faulthandler.enable(all_threads=False)
        faulthandler.register(WHERE, all_threads=False)
        by_name = {str(check): check for check in checks}

        def answer(**content: Any) -> None:
            # A line of its own, whatever stood there before.
            answers.write("\n" + json.dumps(content) + "\n")
            answers.flush()

        answer(ready=True)
        for line in sys.stdin:
            name = json.loads(line)
            outcome = outcome_of(by_name[name], device)
            gone = outcome.verdict == CRASHED and lost(device)
            answer(check=name, outcome=vars(outcome), lost=gone)
            if gone:
                return
