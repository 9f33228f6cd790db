"""Checks in processes that may crash or hang: the check that a process was running is named, and the others go on.

A family of checks has its own process. A process that ends, loses its device or takes too long is replaced, and the
family goes on after the check that it was running. Processes that would be idle help with the longest family.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..environment import CHECKOUT
from .outcome import CRASHED, HUNG, NOT_RUN, WHERE, Outcome

# A frame in what faulthandler prints, the innermost first.
FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$', re.MULTILINE)
SAID_BYTES = 4096
MOST_FAILED_STARTS = 3
# How often an idle slot looks for a family to help.
POLL_SECONDS = 0.1
# What a process may take to end, to be gone when it is killed, and to say where it is.
END_SECONDS, GONE_SECONDS, SAY_SECONDS = 20.0, 5.0, 0.5

Report = Callable[[str, Outcome], None]


@dataclass(frozen=True)
class Limits:
    """Seconds: until a process takes its first check, for each check, and for all of them."""

    start: float
    check: float
    whole: float


@dataclass
class Family:
    """Checks by their names, in the order in which they run, and the command of a process that serves them."""

    name: str
    command: list[str]
    waiting: deque[str]
    workers: int = field(default=0, init=False)
    begun: bool = field(default=False, init=False)
    ready: bool = field(default=False, init=False)
    failed_starts: int = field(default=0, init=False)


def run_families(families: Iterable[Family], jobs: int, limits: Limits, report: Report) -> None:
    """Run all checks, in so many processes at a time, and report each once, as soon as its outcome is known.

    A check without an outcome is reported too, with the reason: time was over, or a signal asked this process to end.
    """
    asyncio.run(_Run(list(families), limits, report).run(jobs))


class _Run:
    def __init__(self, families: list[Family], limits: Limits, report: Report) -> None:
        self._families = families
        self._limits = limits
        self._report = report

    async def run(self, jobs: int) -> None:
        # With exceptions as results it is done when all slots are, and none is left with a process.
        slots = asyncio.gather(*(self._slot() for _ in range(jobs)), return_exceptions=True)
        stopped = f"out of time: {self._limits.whole:.0f} s for all checks are over"
        loop = asyncio.get_running_loop()

        def stop(name: str) -> None:
            nonlocal stopped
            stopped = f"stopped by {name}"
            slots.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)
        try:
            for result in await asyncio.wait_for(slots, self._limits.whole):
                if result is not None:
                    raise result
        except (asyncio.CancelledError, asyncio.TimeoutError):
            for family in self._families:
                self._give_up(family, stopped)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _slot(self) -> None:
        while any(family.waiting for family in self._families):
            if (family := self._next()) is None:
                await asyncio.sleep(POLL_SECONDS)
                continue
            family.begun = True
            family.workers += 1
            try:
                await self._work_on(family)
            finally:
                family.workers -= 1

    def _next(self) -> Family | None:
        """Choose a family that nobody has begun, else the one with most left to do for each of its processes."""
        for family in self._families:
            if family.waiting and not family.begun:
                return family
        # One that no process has been ready for may be one that none ever will be.
        to_help = [family for family in self._families if family.ready and len(family.waiting) > family.workers]
        return max(to_help, key=lambda family: len(family.waiting) / (family.workers + 1), default=None)

    async def _work_on(self, family: Family) -> None:
        """Serve a family by one process, until it has no check left or the process is lost."""
        worker = await Worker.start(family.command)
        try:
            problem = await worker.begin(self._limits.start)
            if problem is not None:
                family.failed_starts += 1
                # A process more may be too much for a machine on which others of the family are at work.
                if not family.ready or family.failed_starts == MOST_FAILED_STARTS:
                    self._give_up(family, f"no process for it starts: {problem}")
                return
            family.ready = True
            last = None
            while family.waiting and not worker.lost:
                last = family.waiting.popleft()
                self._report(last, await self._outcome(worker, last))
            problem = None if worker.lost else await worker.end()
            if problem is not None and last is not None:
                self._report(last, Outcome(CRASHED, f"afterwards, at its end, {problem}"))
        finally:
            await worker.kill()

    async def _outcome(self, worker: Worker, check: str) -> Outcome:
        begun = time.monotonic()
        try:
            return await worker.run(check, self._limits.check)
        except asyncio.CancelledError:
            self._report(check, Outcome(NOT_RUN, f"it was stopped {time.monotonic() - begun:.0f} s after it began"))
            raise

    def _give_up(self, family: Family, reason: str) -> None:
        while family.waiting:
            self._report(family.waiting.popleft(), Outcome(NOT_RUN, reason))


class Worker:
    """A process that serves checks (``check_outcome.serve``); ``lost`` where it can take no more of them."""

    def __init__(self, process: asyncio.subprocess.Process, log: Any) -> None:
        self.lost = False
        self._process = process
        self._log = log
        self._said_before = 0

    @classmethod
    async def start(cls, command: list[str]) -> Worker:
        # A file: nobody need read it while the process runs.
        log = tempfile.TemporaryFile()  # noqa: SIM115
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=1 << 20,
            cwd=CHECKOUT,
            # Compilers that it started go with it.
            start_new_session=True,
        )
        return cls(process, log)

    async def begin(self, limit: float) -> str | None:
        """Wait until it is ready; what became of it if it is not."""
        try:
            answer = await asyncio.wait_for(self._answer("ready", True), limit)
        except asyncio.TimeoutError:
            return f"it was not ready after {limit:g} s{await self._where()}"
        return f"it {await self._how_it_ended()}" if answer is None else None

    async def run(self, check: str, limit: float) -> Outcome:
        """Give the outcome of a check; a process that ends, or does not answer in ``limit`` seconds, is given up."""
        assert self._process.stdin is not None
        self._said_before = self._log.seek(0, os.SEEK_END)
        self._process.stdin.write(json.dumps(check).encode() + b"\n")
        try:
            answer = await asyncio.wait_for(self._answer("check", check), limit)
        except asyncio.TimeoutError:
            self.lost = True
            return Outcome(HUNG, f"killed after {limit:g} s{await self._where()}")
        if answer is None:
            self.lost = True
            return Outcome(CRASHED, f"its process {await self._how_it_ended()}")
        self.lost = bool(answer["lost"])
        return Outcome(**{**answer["outcome"], "errors": tuple(answer["outcome"]["errors"])})

    async def end(self) -> str | None:
        """Let it end; what was wrong with that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = await asyncio.wait_for(self._process.wait(), END_SECONDS)
        except asyncio.TimeoutError:
            return f"its process did not end in {END_SECONDS:g} s{await self._where()}"
        return f"its process {await self._how_it_ended()}" if code else None

    async def kill(self) -> None:
        """End it now, if it has not ended, and what it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.communicate(), GONE_SECONDS)
        self._log.close()

    async def _answer(self, key: str, value: object) -> dict[str, Any] | None:
        """Wait for the next line that is an answer with this value; ``None`` when there are no more."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and answer.get(key) == value:
                    return answer
        return None

    async def _where(self) -> str:
        """Ask the process where in its code it is."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(WHERE)
        await asyncio.sleep(SAY_SECONDS)
        return _innermost(self._said())

    async def _how_it_ended(self) -> str:
        try:
            code = await asyncio.wait_for(self._process.wait(), GONE_SECONDS)
        except asyncio.TimeoutError:
            return "closed its output and went on"
        said = self._said()
        end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        first = next((line.strip() for line in said.splitlines() if line.strip()), "")
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
        # A fault's first words say most, an exception's the last.
        words = last if last and code > 0 else first
        return end + _innermost(said) + (f", saying {words!r}" if words else "")

    def _said(self) -> str:
        """Give what the process printed since its last check began, or the end of that."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._said_before, size - SAID_BYTES))
        said = self._log.read().decode(errors="replace")
        return str(said)


def _innermost(said: str) -> str:
    """Find the place at which a stack in ``said`` ends, with the last two parts of its file."""
    if (frame := FRAME.search(said)) is None:
        return ""
    file, line, function = frame.groups()
    return f" in {'/'.join(Path(file).parts[-2:])}:{line} {function}"
