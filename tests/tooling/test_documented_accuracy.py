"""Accuracies and errors that README and docs show are committed, are promised in the code, or are found again here."""

import json
import re
from functools import cache
from statistics import fmean

import pytest
import torch

from experiments.commands import demo
from gcp_kernels import covariance_pool, fused_gcp, matrix_power, newton_schulz_sqrt
from gcp_kernels.commands import selftest
from gcp_kernels.precision import PROMISED_ERRORS
from tests.support.documents import FIRST, PASSES, assert_shown, flowing, log_of, only, table, text_of

PRECISION = "docs/precision.md"


@cache
def accuracies():
    """Read the committed runs of the demo: accuracies after each epoch by learning rate, seed, images and pooling."""
    lines = map(json.loads, text_of("docs/demo.jsonl").splitlines())
    return {(line["lr"], line["seed"], line["held_out"]): line["accuracy"] for line in lines}


def test_accuracies_of_the_demo():
    runs, said = accuracies(), flowing("docs/papers.md")
    rate = demo.LEARNING_RATE
    average, covariance = (runs[rate, 0, "test"][pool] for pool in ("avg", "gcp"))
    reached = next(epoch for epoch, value in enumerate(covariance, start=1) if value >= average[-1])
    assert (
        f"covariance pooling ends at {covariance[-1]:.2f} % of 899 test digits, average pooling at "
        f"{average[-1]:.2f} %, a level that covariance pooling reached in epoch {reached} of {len(average)}."
    ) in said
    gains = [runs[rate, seed, "test"]["gcp"][-1] - runs[rate, seed, "test"]["avg"][-1] for seed in range(5)]
    ahead = sum(gain > 0 for gain in gains)
    assert (
        f"Over seeds 0 to 4 it ended ahead with {ahead} of 5, by {min(gains):.2f} to {max(gains):.2f} points in all"
    ) in said
    assert {key[:2] for key in runs if key[2] == "test"} == {(rate, seed) for seed in range(5)}
    shown = table("docs/papers.md", "final accuracy on validation digits, %, mean over seeds 0 to 4")
    assert len(shown) == 2
    means = {}
    for row, pool in zip(shown, ("avg", "gcp"), strict=True):
        for column, cell in list(row.items())[1:]:
            means[pool, float(column)] = fmean(runs[float(column), seed, "validation"][pool][-1] for seed in range(5))
            assert_shown(cell, means[pool, float(column)])
    assert rate == max((0.001, 0.003, 0.01), key=lambda column: means["gcp", column])


def test_the_readme_names_what_is_promised():
    promise = table("README.md", "and")[1][""]
    assert {name: float(value) for value, name in re.findall(r'(\S+) in "(\w+)"', promise)} == PROMISED_ERRORS


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.norm()).item()


def test_how_far_the_iterate_is_from_the_root():
    shown = table(PRECISION, "$N$")
    assert [row["$N$"].split(",")[0] for row in shown] == ["64 channels", "256 channels"]
    for row in shown:
        x = torch.relu(torch.randn(8, int(row.pop("$N$").split()[0]), 14, 14))
        exact = matrix_power(covariance_pool(x.double()), alpha=0.5)
        for n_iter, figure in row.items():
            error = relative_error(newton_schulz_sqrt(covariance_pool(x), n_iter=int(n_iter)), exact)
            # What is near zero is rounding, which is of a size and of no fixed value.
            assert error == pytest.approx(float(figure), rel=0.05 if float(figure) > 1e-3 else 0.75), n_iter
    (figure,) = re.findall(r"after 20 iterations it is (\S+) from the exact root at 256", flowing(PRECISION))
    assert relative_error(fused_gcp(x, n_iter=20, output="full"), exact) == pytest.approx(float(figure), rel=0.75)


def test_figures_are_what_the_selftest_finds():
    (text,) = re.findall(
        r"For `isqrt_pool` of the torch backend it printed.*?rounding of the result", flowing(PRECISION)
    )
    shown = [float(figure) for figure in re.findall(r"\d\.\de-\d", text)]
    assert len(shown) == 6
    arithmetic = [a for a in selftest.ARITHMETIC if a.dtype != torch.float64 and a.precision != "fast"]
    assert [str(a) for a in arithmetic] == ["float32 high", "float16", "bfloat16"]
    found = [error for a in arithmetic for error in selftest._checked("torch", "cpu", "isqrt_pool", a)]
    assert found == pytest.approx(shown, rel=0.3)


def test_figures_of_the_selftest_on_a_gpu():
    log = log_of(FIRST, "selftest.log")

    def found(backend, arithmetic):
        return re.findall(rf"^{backend} +cuda +isqrt_pool +{arithmetic} +(\S+) +(\S+) .* ok$", log, re.MULTILINE)[0]

    (text,) = re.findall(r"`python -m gcp_kernels selftest` found, for (.*?)\. TF32", flowing(PRECISION))
    arithmetic = [("cuda", "float32 high"), ("cuda", "float16"), ("triton", "float32 high"), ("triton", "float16")]
    assert re.findall(r"\d\.\de-\d", text) == [
        figure.replace("e-0", "e-")
        for backend, kind in (*arithmetic, ("torch", "float32 high"))
        for figure in found(backend, kind)
    ]
    worst = max(float(error) for row in re.findall(r" (\S+) +(\S+) +\S+ +WRONG$", log, re.MULTILINE) for error in row)
    again = log_of(PASSES, "README.md")
    (tf32,) = re.findall(r"TF32, in which torch iterated there in \"fast\", erred by (\S+) at", flowing(PRECISION))
    assert f"the torch backend in TF32 erred by {tf32} where" in again
    said = re.findall(r"float32 was off by up to ([\d.e-]+)", flowing("docs/backends.md"))
    assert list(map(float, said)) == [worst]


def test_what_ran_on_the_gpu_is_in_its_logs():
    checks = {run: only(r"^(\d+) checks in .*: \1 ok, 0 WRONG", log_of(run, "kernels.log")) for run in (FIRST, PASSES)}
    seconds = dict(re.findall(r"^(\w+) +(?:passed|FAILED) +(\d+) s", log_of(FIRST, "summary.txt"), re.MULTILINE))
    clean = only(r"^memcheck: (\d+) checks ok, 0 failed$", log_of(FIRST, "sanitizer.txt"))
    ended = only(r"^ +(\d+) RACECHECK SUMMARY: 0 hazards", log_of(PASSES, "sanitizer.txt"))
    without_hazard = only(r"^racecheck: (\d+) checks ok, 0 failed$", log_of(PASSES, "sanitizer.txt"))
    stopped = only(r"^racecheck .* stopped at the limit of (\d+) s;", log_of(FIRST, "summary.txt"))
    right = only(r"selftest` \| (\d+) rows right, 0 wrong", log_of(PASSES, "README.md"))
    for row in (
        f"| `kernels`: {checks[FIRST]} checks | {seconds['kernels']} | ",
        f"| `selftest` | {seconds['selftest']} | ",
        f"| `memcheck`: {clean} checks | {seconds['memcheck']} | ",
        f"not at its end after {stopped}:",
        f"{right} rows right",
        f"{checks[PASSES]} checks right; {ended} of 14 processes at their end",
    ):
        assert row in flowing("docs/gpu.md")
    assert f"no hazard in {without_hazard} of {checks[PASSES]} checks since" in flowing("docs/backends.md")
