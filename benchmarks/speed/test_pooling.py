"""The same cases for pytest-benchmark, whose storage and comparison then work: ``pytest benchmarks/ --benchmark-only``.

    pytest benchmarks/ --benchmark-only --benchmark-autosave
    pytest benchmarks/ --benchmark-only --benchmark-compare

Each provider is held against float64 first. Ours fails where it is wrong; a peer is skipped, with its error. The set
and the device are chosen by the environment variables GCP_BENCH_SET (small) and GCP_BENCH_DEVICE (cuda if any).
"""

from __future__ import annotations

import os

import pytest
import torch

from ..cases import Case, make_inputs
from ..peers.providers import by_name, settings
from ..peers.truth import Judge
from .measure import calls_of, is_ours, verified
from .sets import named_set

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed (the extra bench has it)")

DEVICE = torch.device(os.environ.get("GCP_BENCH_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
ITEMS = named_set(os.environ.get("GCP_BENCH_SET", "small"), DEVICE.type).items
PARAMETERS = [
    pytest.param(item.group, item.case, name, id=f"{item.group}-{item.case.label.replace(' ', '-')}-{name}")
    for item in ITEMS
    for name in item.providers
]


@pytest.mark.parametrize(("group", "case", "name"), PARAMETERS)
def test_pooling(benchmark, group: str, case: Case, name: str) -> None:
    provider = by_name(name)
    if reason := provider.why_not(case, DEVICE):
        pytest.skip(reason)
    benchmark.group = f"{group}: {case.label}"
    inputs = make_inputs(case, DEVICE)
    row, pool = verified(group, case, provider, DEVICE, Judge(case, inputs), inputs)
    if pool is None:
        (pytest.fail if is_ours(name) else pytest.skip)(row.problem)
    benchmark.extra_info.update(output_error=row.output_error, gradient_error=row.gradient_error)
    with settings(provider, case):
        (call,) = calls_of(pool, provider.truth, case.direction, [inputs])

        def waiting() -> None:
            call()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize(DEVICE)

        benchmark(waiting)
