"""The search for an entry: only what compiles well is run, only what is right is timed, beside what is shipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gcp_kernels.ops.triton_device.architecture import Architecture

from ..codegen.triton_kernels import KernelCase
from ..timing import Spread, ratios
from .space import Entry, Option, compiled_for, described, shared_limit

# What is timed side by side: each has a CUDA graph, and a graph keeps its slabs.
GROUP = 4
# The best of the first timing are timed again, in more rounds: the best of many noisy figures is too good to be true.
FINALISTS = 4
FIRST_ROUNDS, FINAL_ROUNDS = 5, 15
# What is shipped stays unless another is faster by more than the spread and this.
MARGIN = 0.02

Say = Callable[[str], None]


class Compiler(Protocol):
    """Says what the assembler made of passes."""

    def problems(self, launches: Sequence[Sequence[KernelCase]], archs: Sequence[int], shared: int) -> list[list[str]]:
        """Of each option's passes what is not accepted, on any of the architectures, with so much shared memory."""


class Stopwatch(Protocol):
    """A GPU, or what stands for one."""

    def error(self, case: KernelCase) -> tuple[float, float]:
        """Relative error of a pass against float64, and beyond what it is wrong."""

    def seconds(self, cases: Sequence[KernelCase], rounds: int) -> list[list[float]]:
        """Seconds of passes that differ in their configuration alone, side by side: for each of them, by rounds."""


@dataclass
class Found:
    """What an entry should be, and why; ``rejected`` says of every other option what was wrong with it."""

    entry: Entry
    option: Option
    reason: str
    legal: list[Option] = field(default_factory=list)
    rejected: dict[Option, str] = field(default_factory=dict)


def legal_options(entry: Entry, arch: Architecture, compiler: Compiler, only: str | None) -> Found:
    """Give what is shipped, and the options that compile well on every architecture that the entry serves."""
    options = [option for option in entry.candidates if option is None or only is None or only in repr(option)]
    if entry.shipped not in options:
        options.append(entry.shipped)
    launches = [entry.launches(option, arch) for option in options]
    archs, shared = compiled_for(entry.kernel, arch.capability), shared_limit(entry.kernel, arch.capability)
    found = Found(entry, entry.shipped, "not measured")
    for option, problems in zip(options, compiler.problems(launches, archs, shared), strict=True):
        if problems:
            found.rejected[option] = problems[0]
        if not problems or option == entry.shipped:  # which users have: the clock says what it costs them
            found.legal.append(option)
    return found


def search(entry: Entry, arch: Architecture, compiler: Compiler, clock: Stopwatch, only: str | None, say: Say) -> Found:
    """Give the fastest option that is legal and right, or what is shipped where that is as fast."""
    found = legal_options(entry, arch, compiler, only)
    right = []
    for option in found.legal:
        wrong = next(wrong_passes(entry.launches(option, arch), clock), None)
        if wrong is None:
            right.append(option)
        else:
            found.rejected[option] = wrong
            say(f"  {option}: {wrong}")
    if not right:
        raise RuntimeError(f"{entry.name}: no option is legal and right: {found.rejected}")
    # A table's own entry may be neither, on this GPU: then the first that is right is what others are held against.
    baseline = entry.shipped if entry.shipped in right else right[0]
    others = [option for option in right if option != baseline]
    first: dict[Option, float] = {}
    for start in range(0, len(others), GROUP):
        group = others[start : start + GROUP]
        spreads, _ = beside(entry, baseline, group, arch, clock, FIRST_ROUNDS)
        first |= {option: spreads[option].median for option in group}
    finalists = sorted(others, key=first.__getitem__)[:FINALISTS]
    spreads, milliseconds = beside(entry, baseline, finalists, arch, clock, FINAL_ROUNDS)
    best = min(finalists, key=lambda option: spreads[option].median, default=baseline)
    # What is shipped stays unless another is faster beyond the spread; what cannot serve here gives way to any.
    enough = 1 - MARGIN if baseline == entry.shipped else 1.0
    found.option = best if best != baseline and spreads[best].high < enough else baseline
    found.reason = reason(entry, found.option, baseline, finalists, spreads, milliseconds)
    say(f"  {len(found.legal)} legal, {len(right)} right; {found.option}: {found.reason}")
    return found


def wrong_passes(launches: Sequence[KernelCase], clock: Stopwatch) -> Iterator[str]:
    """Why a pass is not to be timed, for those that are not."""
    for case in launches:
        try:
            error, limit = clock.error(case)
        except Exception as problem:  # of any kind: a candidate that cannot be launched is out, the others go on
            first_line = (str(problem).strip().splitlines() or ["no message"])[0]
            yield f"{described(case)} failed: {type(problem).__name__}: {first_line}"
            continue
        if not error <= limit:
            yield f"{described(case)} is wrong: error {error:.1e}, limit {limit:.1e}"


def beside(
    entry: Entry, baseline: Option, options: Sequence[Option], arch: Architecture, clock: Stopwatch, rounds: int
) -> tuple[dict[Option, Spread], dict[Option, list[float]]]:
    """Give times over the baseline's, the geometric mean of all passes by round; and milliseconds of each pass."""
    together = [baseline, *options]
    by_pass = list(zip(*(entry.launches(option, arch) for option in together), strict=True))
    times = [clock.seconds(cases, rounds) for cases in by_pass]
    milliseconds = {
        option: [1e3 * Spread.of(one[index]).median for one in times] for index, option in enumerate(together)
    }
    spreads = {}
    for index, option in enumerate(together):
        mean = [geometric_mean(values) for values in zip(*(one[index] for one in times), strict=False)]
        base = [geometric_mean(values) for values in zip(*(one[0] for one in times), strict=False)]
        spreads[option] = ratios(mean, base)
    return spreads, milliseconds


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def reason(
    entry: Entry,
    chosen: Option,
    baseline: Option,
    finalists: Sequence[Option],
    spreads: dict[Option, Spread],
    milliseconds: dict[Option, list[float]],
) -> str:
    """In words: the times, and the ratio to what was shipped, or to the next best."""
    times = ", ".join(
        f"{1e3 * found:.4g} us {described(case)}" for case, found in zip(entry.cases, milliseconds[chosen], strict=True)
    )
    what = "what was shipped" if baseline == entry.shipped else "the first that is legal"
    if chosen != baseline:
        return f"{times}; {words(spreads[chosen])} of {what}, {name(baseline, entry)}"
    best = min(finalists, key=lambda option: spreads[option].median, default=None)
    if best is None and not finalists:
        return f"{times}; nothing else is legal and right"
    return f"{times}; {name(best, entry)} takes {words(spreads[best])} of that"


def words(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def name(option: Option, entry: Entry) -> str:
    return f"no entry but {entry.rival}" if option is None else str(option)
