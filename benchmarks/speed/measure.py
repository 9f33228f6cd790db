"""One case: verify every provider on its inputs, time those that are right side by side, and set them in proportion."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..cases import DTYPES, Case, Inputs, Pool, make_inputs
from ..environment import machine_state
from ..peers.providers import BACKEND_PROVIDERS, Provider, settings
from ..peers.truth import Judge, step, upstream_of, worst_sample_error
from ..rows import Row
from ..timing import Budget, Clock, Spread, interleaved, ratios, seconds
from . import gpu_timing, memory
from .gpu_timing import Cold
from .roofline import Ceilings, necessary_bytes, useful_flop

GRAPH, EAGER, WALL = "CUDA graph", "CUDA events", "wall clock"


@dataclass(frozen=True)
class Candidate:
    """A provider that has passed, its row so far, and its clocks by method."""

    provider: Provider
    row: Row
    clocks: dict[str, Clock]


def time_case(
    group: str,
    case: Case,
    providers: Sequence[Provider],
    device: torch.device,
    budget: Budget,
    ceilings: Ceilings | None = None,
) -> list[Row]:
    """Make a row for each provider, in order: its time, or the reason why it is not timed."""
    inputs = make_inputs(case, device)
    cold = Cold.of(inputs.nbytes, gpu_timing.cache_bytes(device)) if device.type == "cuda" else Cold(1, 0)
    copies = [inputs, *(inputs.copy() for _ in range(cold.copies - 1))]
    judge = Judge(case, inputs)
    candidates = [prepared(group, case, provider, device, judge, copies, cold) for provider in providers]
    clocks = {
        (candidate.provider.name, method): partial(with_settings, candidate.provider, case, clock)
        for candidate in candidates
        for method, clock in candidate.clocks.items()
    }
    times = interleaved(clocks, budget)
    state = machine_state(device)
    rows = compared([timed(candidate, times, case, ceilings, state) for candidate in candidates], times)
    del candidates, clocks, copies, judge
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def with_settings(provider: Provider, case: Case, clock: Clock) -> float:
    with settings(provider, case):
        return clock()


def prepared(
    group: str,
    case: Case,
    provider: Provider,
    device: torch.device,
    judge: Judge,
    copies: Sequence[Inputs],
    cold: Cold,
) -> Candidate:
    """Verify a provider; its clocks if it is here and right, else the problem in its row."""
    row, pool = verified(group, case, provider, device, judge, copies[0])
    if pool is None:
        return Candidate(provider, row, {})
    try:
        with settings(provider, case), without_compiler_warnings():
            if case.direction == "both":
                row = memory.with_bytes(row, pool, copies[0], upstream_of(provider.truth, copies[0]))
            clocks, row = clocks_of(row, pool, provider, case, device, copies, cold)
            for clock in clocks.values():
                clock()
            return Candidate(provider, row, clocks)
    except Exception as error:  # too little memory for the copies, for instance, which the others may not need
        return Candidate(provider, replace(row, problem=failure(error)), {})


def verified(
    group: str, case: Case, provider: Provider, device: torch.device, judge: Judge, inputs: Inputs
) -> tuple[Row, Pool | None]:
    """Give the provider's row without a time; and its pool, if it is installed and within its limit of float64."""
    row = Row.of("time", group, case, provider.name, provider.truth)
    if (reason := provider.why_not(case, device)) is not None:
        return replace(row, problem=reason), None
    limit = provider.limit(case)
    row = replace(row, error_limit=limit)
    try:
        with settings(provider, case), without_compiler_warnings():
            pool = provider.build(case)
            upstream = upstream_of(provider.truth, inputs) if judge.wants_gradient else None
            found = step(pool, inputs.features, upstream)
        errors = judge.compare(found, provider.truth)
        if provider.truth == "pade":
            row = replace(row, root_distance=worst_sample_error(found[0], judge.truth("root")[0]))
    except Exception as error:  # whatever a peer raises is its result here, and must not stop the others
        return replace(row, problem=failure(error)), None
    row = replace(row, output_error=errors.output, gradient_error=errors.gradient)
    if not errors.within(limit):
        return replace(row, problem=f"failing: error {errors}, limit {limit:.1e}"), None
    return row, pool


def failed(row: Row) -> bool:
    """Say whether the provider ran and was wrong or raised, and is not just missing here."""
    return row.problem is not None and row.problem.startswith("failing")


def failure(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or ["no message"])[0]
    return f"failing: {type(error).__name__}: {first_line}"


@contextmanager
def without_compiler_warnings() -> Iterator[None]:
    """Ignore what torch.compile warns of: deprecations inside torch itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\._inductor")
        yield


def clocks_of(
    row: Row,
    pool: Pool,
    provider: Provider,
    case: Case,
    device: torch.device,
    copies: Sequence[Inputs],
    cold: Cold,
) -> tuple[dict[str, Clock], Row]:
    """Make clocks by method: wall on a CPU; on a GPU eager, and a graph where the provider can be captured."""
    calls = calls_of(pool, provider.truth, case.direction, copies)
    if device.type != "cuda":
        return {WALL: lambda: seconds(calls[0], device)}, replace(
            row, method=WALL, cache="inputs as the last call left"
        )
    clocks = {EAGER: gpu_timing.eager_clock(lambda copy: calls[copy](), cold, device)}
    if provider.eager_only is not None:
        return clocks, replace(row, method=f"{EAGER}: {provider.eager_only}", cache=str(cold))
    stream = gpu_timing.capture_stream(device)
    try:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            captured = calls_of(pool, provider.truth, case.direction, copies)
        clocks[GRAPH] = gpu_timing.graph_clock(captured, cold, device)
    except RuntimeError as error:
        return clocks, replace(row, method=f"{EAGER}: not captured, {failure(error)}", cache=str(cold))
    return clocks, replace(row, method=GRAPH, cache=str(cold))


def calls_of(pool: Pool, truth: str, direction: str, copies: Sequence[Inputs]) -> list[Callable[[], object]]:
    """Make the calls that are timed, one for each copy of the inputs.

    Each has a leaf of its own, in the memory of the features. For a leaf autograd has one node as long as any graph
    needs it, on the stream on which the first was recorded. A backward pass to a node on another stream than its own
    cannot be captured.
    """

    def call_of(inputs: Inputs) -> Callable[[], object]:
        upstream, features = upstream_of(truth, inputs), inputs.features.detach()
        if direction == "inference":
            return partial(step, pool, features, None)
        leaf = features.requires_grad_()
        if direction == "forward":
            return partial(pool, leaf)
        if direction == "both":
            return partial(step, pool, leaf, upstream)
        return partial(torch.autograd.grad, pool(leaf), leaf, upstream, retain_graph=True)

    return [call_of(inputs) for inputs in copies]


def timed(
    candidate: Candidate,
    times: dict[tuple[str, str], list[float]],
    case: Case,
    ceilings: Ceilings | None,
    state: dict[str, float],
) -> Row:
    """Add to the candidate's row its time, and how near to the roofline that is."""
    row, name = candidate.row, candidate.provider.name
    method = next((one for one in (GRAPH, EAGER, WALL) if (name, one) in times), None)
    if method is None:
        return row
    found = times[name, method]
    spread = Spread.of([1e3 * value for value in found])
    row = replace(row, milliseconds=spread.median, low=spread.low, high=spread.high, rounds=len(found), **state)
    if method == GRAPH:
        row = replace(row, eager_milliseconds=1e3 * Spread.of(times[name, EAGER]).median)
    if candidate.provider.truth != "iterates":  # the operations counted are those of the iterates
        return row
    shape = (case.batch, case.channels, case.positions)
    row = replace(
        row,
        useful_flop=useful_flop(*shape, case.n_iter, case.direction),
        necessary_bytes=necessary_bytes(*shape, case.direction, DTYPES[case.dtype].itemsize),
    )
    if ceilings is None:
        return row
    bound = ceilings.bound(case)
    return replace(row, bound_milliseconds=1e3 * bound, fraction=1e3 * bound / spread.median)


def compared(rows: Sequence[Row], times: dict[tuple[str, str], list[float]]) -> list[Row]:
    """Add ratios to ours to rows: graph to graph where both have one, else without graphs on either side."""
    ours = next((row.provider for row in rows if row.milliseconds is not None and is_ours(row.provider)), None)
    if ours is None:
        return list(rows)
    result = []
    for row in rows:
        methods = [one for one in (GRAPH, EAGER, WALL) if (row.provider, one) in times and (ours, one) in times]
        if methods:
            ratio = ratios(times[row.provider, methods[0]], times[ours, methods[0]])
            row = replace(row, baseline=ours, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)
        result.append(row)
    return result


def is_ours(name: str) -> bool:
    return any(provider.name == name for provider in BACKEND_PROVIDERS)
