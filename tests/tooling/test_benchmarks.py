"""The benchmark's measuring itself: it verifies before it times, counts what it says, and its rows can be read."""

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import environment, rows, timing
from benchmarks.cases import DIRECTIONS, Case, make_inputs
from benchmarks.peers import truth
from benchmarks.peers.providers import Provider, by_name
from benchmarks.speed import measure, memory, sets, table
from benchmarks.speed.roofline import (
    Ceilings,
    measure_ceilings,
    necessary_bytes,
    useful_flop,
)
from gcp_kernels.ops import times
from gcp_kernels.ops.flops import isqrt_pool_flop_on_channels, isqrt_pool_flop_on_positions

CPU = torch.device("cpu")
CASE = Case(2, 16, 5, 5)
OURS = by_name("gcp_kernels[torch]")
QUICK = timing.Budget(rounds=2, turn_seconds=1e-4, provider_seconds=0.01)


def provider(name, pool, **options):
    return Provider(name, f"made up: {name}", lambda case: pool, **options)


def scaled(factor):
    right = truth.reference_pool(5)
    return lambda features: factor * right(features)


def wrong_gradient(features):
    pooled = truth.reference_pool(5)(features)
    return pooled.detach() + 0.999 * (pooled - pooled.detach())


def wrong_in_one_sample(features):
    factor = torch.ones(len(features), 1)
    factor[-1] = 1.001
    return factor * truth.reference_pool(5)(features)


def measured(*providers, case=CASE):
    return measure.time_case("made up", case, providers, CPU, QUICK)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("off", scaled(1.001)),
        ("nan", scaled(math.nan)),
        ("gradient", wrong_gradient),
        ("one sample", wrong_in_one_sample),
    ],
)
def test_a_wrong_provider_is_not_timed(name, pool):
    ours, wrong = measured(OURS, provider(name, pool))
    assert ours.problem is None
    assert ours.milliseconds > 0
    assert ours.ratio == 1
    assert wrong.problem.startswith("failing: error")
    assert measure.failed(wrong)
    assert wrong.milliseconds is None
    assert wrong.ratio is None
    assert f"{name:22} not timed  failing: error" in table.case_lines([ours, wrong])


def test_inference_is_held_to_its_output_alone():
    (row,) = measured(provider("gradient", wrong_gradient), case=replace(CASE, direction="inference"))
    assert row.problem is None
    assert row.gradient_error is None


def test_a_provider_that_raises_or_mishapes_does_not_stop_the_others():
    def broken(features):
        raise RuntimeError("no such engine\nsecond line")

    broken, shaped, ours = measured(provider("broken", broken), provider("shape", lambda f: f.flatten(1)), OURS)
    assert broken.problem == "failing: RuntimeError: no such engine"
    assert shaped.problem.startswith("failing: RuntimeError: Mismatch in shape")
    assert shaped.milliseconds is None
    assert ours.milliseconds is not None


def test_shape_and_dtype_of_an_output_are_checked():
    case = replace(CASE, direction="inference")
    rounded = provider("dtype", lambda features: truth.reference_pool(5)(features).half())
    shaped, rounded = measured(provider("shape", lambda features: features.flatten(1)), rounded, case=case)
    assert "output is torch.float32 (2, 400), not (2, 136) torch.float32" in shaped.problem
    assert "output is torch.float16 (2, 136), not (2, 136) torch.float32" in rounded.problem


def test_an_absent_provider_is_named_with_its_reason():
    absent = provider("absent", scaled(1.0), why_not=lambda case, device: "absent not installed")
    (row,) = measured(absent)
    assert row.problem == "absent not installed"
    assert not measure.failed(row)
    assert "absent not installed" in table.case_lines([row])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_direction_is_timed_and_does_what_it_says(direction):
    graphs = []

    def pool(features):
        graphs.append(torch.is_grad_enabled() and features.requires_grad)
        return truth.reference_pool(5)(features)

    inputs = make_inputs(CASE, CPU)
    (call,) = measure.calls_of(pool, "iterates", direction, [inputs])
    ready = len(graphs)
    call()
    call()
    assert len(graphs) - ready == (0 if direction == "backward" else 2)
    assert all(graph is (direction != "inference") for graph in graphs)
    (row,) = measured(OURS, case=replace(CASE, direction=direction))
    assert row.milliseconds > 0
    assert row.low <= row.milliseconds <= row.high
    assert (row.saved_bytes is None) == (direction != "both")


def test_kept_bytes_are_those_that_autograd_saves():
    inputs = make_inputs(CASE, CPU)
    factor = torch.full((2, 16, 5, 5), 2.0)
    assert memory.kept_by_hooks(lambda features: features * factor, inputs.features) == factor.nbytes
    assert memory.kept_by_hooks(lambda features: features.exp(), inputs.features) == 0, "the result is the caller's"


def test_useful_flop_are_those_of_the_side_that_needs_fewer():
    """That of a side is counted by hand in tests/operations/test_flops.py."""
    assert useful_flop(256, 256, 196, 5, "both") == 256 * sum(isqrt_pool_flop_on_positions(256, 196, 5))
    assert useful_flop(3, 192, 196, 5, "backward") == 3 * isqrt_pool_flop_on_channels(192, 196, 5)[1]
    assert useful_flop(1, 1, 1, 1, "forward") == useful_flop(1, 1, 1, 1, "inference") == 2
    assert useful_flop(3, 1, 1, 2, "both") == 3 * (4 + 10)


def test_necessary_bytes_are_those_counted_by_hand():
    features, triangle = 256 * 256 * 196, 256 * 256 * 257 // 2
    assert necessary_bytes(256, 256, 196, "forward", 2) == 2 * (features + triangle)
    assert necessary_bytes(256, 256, 196, "backward", 2) == 2 * (2 * features + triangle)
    assert necessary_bytes(1, 2, 3, "both", 4) == 4 * (6 + 3 + 6 + 3 + 6)


def test_the_bound_is_the_longer_of_arithmetic_and_traffic():
    case = Case(1, 1, 1, 1, n_iter=1, direction="forward")
    assert Ceilings(8.0, 1.0, "made up").bound(case) == 2
    assert Ceilings(1.0, 1e9, "made up").bound(case) == 8
    (row,) = measure.time_case("made up", CASE, [OURS], CPU, QUICK, Ceilings(1e3, 1e3, "made up"))
    assert row.fraction == pytest.approx(row.bound_milliseconds / row.milliseconds)


def test_ceilings_are_measured():
    ceilings = measure_ceilings(CPU)
    assert ceilings.bytes_per_second > 1e8
    assert ceilings.flop_per_second > 1e8


def test_interleaved_ratios_with_a_made_up_clock():
    """Everyone runs in every round, the first changes, and what slows a whole round leaves ratios alone."""
    log = []
    noise = [1.0]

    def clock(name, factor):
        def call():
            log.append(name)
            noise[0] += 0.5 if len(log) % 2 else 0.0
            return noise[0] * factor

        return call

    budget = timing.Budget(rounds=4, turn_seconds=0.1, provider_seconds=1e6)
    times = timing.interleaved({"a": clock("a", 1.0), "b": clock("b", 3.0)}, budget)
    # A warm-up and two trials each, then one call per turn because a turn is shorter than one call.
    assert log[:6] == ["a"] * 3 + ["b"] * 3
    assert log[6:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [len(found) for found in times.values()] == [4, 4]
    assert times["a"][-1] > times["a"][0], "the clock drifts"
    assert timing.ratios(times["b"], times["a"]) == timing.Spread(3.0, 3.0, 3.0)


def test_a_slow_provider_has_fewer_rounds_but_enough_for_quartiles():
    budget = timing.Budget(rounds=15, turn_seconds=0.1, provider_seconds=2.0)
    assert budget.rounds_of(0.01) == 15
    assert budget.rounds_of(0.4) == 5
    assert budget.rounds_of(60.0) == timing.LEAST_ROUNDS
    assert budget.calls(0.01) == 10
    assert budget.calls(1e-9) == timing.MOST_CALLS
    times = timing.interleaved({"fast": lambda: 0.1, "slow": lambda: 0.5}, budget)
    assert {name: len(found) for name, found in times.items()} == {"fast": 15, "slow": 4}
    assert timing.ratios(times["slow"], times["fast"]).median == 5


def test_spread():
    assert timing.Spread.of([4.0]) == timing.Spread(4.0, 4.0, 4.0)
    assert timing.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Spread(3.0, 2.0, 4.0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the resident set is read from Linux's /proc")
def test_peak_resident_set_counts_what_is_touched_and_freed():
    megabytes = 64
    baseline = memory.settle(CPU)
    block = torch.ones(megabytes * 2**18)
    del block
    grown = memory.high_water(CPU) - baseline
    # Linux counts pages in batches per thread, so that the resident set may be a few hundred KiB behind.
    assert (megabytes - 2) * 2**20 <= grown < (megabytes + 16) * 2**20
    again = memory.settle(CPU)
    assert memory.high_water(CPU) - again < 8 * 2**20, "settle() restarts the high-water mark"


def test_cases_are_written_as_they_are_read():
    for item in sets.named_set("full", "cuda").items:
        assert Case.parse(item.case.label) == item.case
        assert Case.parse(str(item.case)) == Case(*map(int, str(item.case).split("x")))
    with pytest.raises(ValueError, match="8x256"):
        Case.parse("8x256")


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"n_iter": 0}, {"dtype": "int8"}, {"precision": "low"}, {"direction": "up"}]
)
def test_a_case_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .* got {next(iter(wrong.values()))!r}"):
        replace(CASE, **wrong)


@pytest.mark.parametrize("name", sets.SETS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sets_hold_what_they_promise(name, device):
    plan = sets.named_set(name, device)
    swept = {"batch": "batch", "channels": "channels", "positions": "positions", "iterations": "n_iter"}
    for group, field in swept.items():
        values = [getattr(item.case, field) for item in plan.items if item.group == group]
        assert len(set(values)) == len(values) >= 2
        others = {
            replace(
                item.case,
                **{"n_iter" if field == "n_iter" else "batch": 1},
                **({"height": 1, "width": 1, "channels": 1}),
            )
            for item in plan.items
            if item.group == group
        }
        assert len(others) == 1, "a sweep has one arithmetic and one direction"
    keys = [(item.group, item.case, one) for item in plan.items for one in item.providers]
    assert len(set(keys)) == len(keys), "every measurement is made once"
    assert {item.case.direction for item in plan.items} == set(DIRECTIONS)
    for item in plan.items:
        for one in item.providers:
            by_name(one)
    if name == "full":
        assert {1, 1024} <= {item.case.batch for item in plan.items if item.group == "batch"}
        assert {32, 1024} <= {item.case.channels for item in plan.items if item.group == "channels"}
        assert {1, 3136} <= {item.case.positions for item in plan.items if item.group == "positions"}
        assert {1, 10} <= {item.case.n_iter for item in plan.items if item.group == "iterations"}
        assert len({(item.case.dtype, item.case.precision) for item in plan.items}) == 7
    with pytest.raises(ValueError, match="'tiny'"):
        sets.named_set("tiny", device)


@pytest.mark.parametrize("name", ["standard", "full"])
def test_a_training_step_on_a_gpu_stands_beside_compiled_code_in_every_arithmetic(name):
    arithmetic = {"compile": set(), "compile-half": set()}
    for item in sets.named_set(name, "cuda").items:
        if str(item.case) == "256x256x14x14" and item.case.direction == "both":
            for one in arithmetic.keys() & set(item.providers):
                arithmetic[one].add((item.case.dtype, item.case.precision))
    half = {("float16", "fast"), ("bfloat16", "fast")}
    assert arithmetic == {"compile": {("float32", "high"), ("float32", "fast"), *half}, "compile-half": half}


def test_what_auto_compares_is_measured_in_both_passes():
    found = [item.case for item in sets.named_set("standard", "cuda").items if item.group == "auto"]
    assert len(found) == 2 * len(times.TABLE)
    for row in times.TABLE:
        cases = [
            case for case in found if (case.channels, case.positions, case.precision) == (*row.shape, row.precision)
        ]
        assert [case.direction for case in cases] == ["inference", "backward"]
        assert {(case.batch, case.dtype) for case in cases} == {(times.SAMPLES, times.DTYPES[row.precision])}


def test_rows_are_strict_json_and_read_as_they_were_written(tmp_path):
    wrong = rows.Row.of("time", "made up", CASE, "nan", "iterates", problem="failing", output_error=math.inf)
    right = rows.Row.of("time", "made up", CASE, "right", "iterates", milliseconds=1.5, low=1.25, high=2.0)
    setting = environment.environment(CPU)
    writer = rows.Writer(tmp_path / "run", setting)
    writer.write([wrong])
    writer.write([right])
    writer.finish()
    lines = (tmp_path / "run" / rows.JSON_NAME).read_text().splitlines()
    found = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]
    assert found[0] == {**asdict(replace(wrong, output_error=None)), **setting}
    read = rows.read(tmp_path / "run")
    assert read.rows == [replace(wrong, output_error=None), right]
    assert read.environment == setting
    (tmp_path / "run" / rows.JSON_NAME).unlink()
    assert rows.read(tmp_path / "run") == read, "the CSV alone says the same"
    with (tmp_path / "run" / rows.CSV_NAME).open(newline="") as stream:
        table_rows = list(csv.DictReader(stream))
    assert [row["milliseconds"] for row in table_rows] == ["", "1.5"]
    assert list(table_rows[0]) == [*rows.FIELDS, *setting]


@pytest.mark.parametrize("text", ["", "{}\n", "no json\n", "[]\n"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    (tmp_path / rows.JSON_NAME).write_text(text)
    with pytest.raises(ValueError, match="row"):
        rows.read(tmp_path)
    with pytest.raises(ValueError, match="not a file"):
        rows.read(tmp_path / "absent")
