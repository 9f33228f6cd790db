"""The benchmark itself: it verifies before it times, and its rows can be read by a machine."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks import cases, memory, peers, run, timing

CPU = torch.device("cpu")


def provider(name, build):
    return peers.Provider(name, f"made up: {name}", build)


def scaled(factor):
    def build(n_iter):
        right = cases.reference_pool(n_iter)
        return lambda features: factor * right(features)

    return build


def wrong_gradient(n_iter):
    right = cases.reference_pool(n_iter)

    def pool(features):
        pooled = right(features)
        return pooled.detach() + 0.999 * (pooled - pooled.detach())

    return pool


def test_quick_run_from_the_command_line(tmp_path, capsys):
    rows_file = tmp_path / "rows.jsonl"
    assert run.main(["--quick", "--json", str(rows_file)]) == 0
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    names = [provider.name for provider in peers.PROVIDERS if not provider.compiles]
    for kind in ("speed", "memory"):
        assert [row["provider"] for row in rows if row["kind"] == kind] == names
    for row in rows:
        assert row["case"] == str(cases.QUICK)
        assert row["environment"]["threads"] == torch.get_num_threads()
        if row["problem"] is None:
            assert row["output_error"] <= cases.ERROR_LIMIT
            assert row["gradient_error"] <= cases.ERROR_LIMIT
            assert row["milliseconds" if row["kind"] == "speed" else "peak_bytes"] is not None
    ours = next(row for row in rows if row["kind"] == "speed" and row["provider"] == peers.OURS.name)
    assert ours["problem"] is None
    assert ours["milliseconds"] > 0
    assert ours["ratio"] == 1
    if peers.pytorchcv_missing():
        assert "pytorchcv not installed" in out


@pytest.mark.parametrize(
    ("name", "build"), [("off", scaled(1.001)), ("nan", scaled(math.nan)), ("gradient", wrong_gradient)]
)
def test_a_wrong_provider_is_not_timed(name, build, capsys):
    rows = run.speed_rows(cases.QUICK, [peers.OURS, provider(name, build)], CPU, rounds=1)
    run.print_speed(cases.QUICK, rows)
    ours, wrong = rows
    assert ours.problem is None
    assert ours.milliseconds is not None
    assert wrong.problem.startswith("failing: error")
    assert wrong.milliseconds is None
    assert wrong.ratio is None
    assert f"{name:16} not timed   failing" in capsys.readouterr().out


def test_a_provider_that_raises_or_mishapes_does_not_stop_the_others():
    def broken(n_iter):
        raise RuntimeError("no such engine\nsecond line")

    def transposed(n_iter):
        return lambda features: features.flatten(1)

    rows = run.speed_rows(
        cases.QUICK, [provider("broken", broken), provider("shape", transposed), peers.OURS], CPU, rounds=1
    )
    assert rows[0].problem == "failing: RuntimeError: no such engine"
    assert rows[1].problem is not None
    assert rows[1].milliseconds is None
    assert rows[2].milliseconds is not None


def test_an_absent_provider_is_named_with_its_reason(capsys):
    absent = peers.Provider("absent", "made up", scaled(1.0), available=lambda: "absent not installed")
    rows = run.speed_rows(cases.QUICK, [absent], CPU, rounds=1) + run.memory_rows(cases.QUICK, [absent], CPU, 1)
    run.print_speed(cases.QUICK, rows[:1])
    run.print_memory(cases.QUICK, rows[1:])
    assert capsys.readouterr().out.count("absent not installed") == 2


def test_rows_are_strict_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = run.Row("speed", "1x1x1x1", 5, "nan", "failing", output_error=math.nan, gradient_error=math.inf)
    run.write_json(path, [row], {"threads": 1})
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {
        **asdict(row),
        "output_error": None,
        "gradient_error": None,
        "environment": {"threads": 1},
    }


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--device", "meta"], ["--json", "/no/such/place/rows"], ["--json", "."]]
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        run.main(arguments)
    assert ending.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_interleaved_ratios_with_a_made_up_clock():
    """Everyone runs in every round, the first changes, and what slows a whole round leaves ratios alone."""
    log = []
    steps = {name: lambda name=name: log.append(name) for name in "ab"}
    noise = [1.0]

    def clock(step, device):
        step()
        noise[0] += 0.5 if len(log) % 2 else 0.0
        return noise[0] * {"a": 1.0, "b": 3.0}[log[-1]]

    times = timing.interleaved(steps, CPU, rounds=4, clock=clock)
    # A warm-up and two trials each, then one call per turn because a turn is shorter than one call.
    assert log[:6] == ["a"] * 3 + ["b"] * 3
    assert log[6:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [len(found) for found in times.values()] == [4, 4]
    assert times["a"][-1] > times["a"][0], "the clock drifts"
    assert timing.ratios(times["b"], times["a"]) == timing.Spread(3.0, 3.0, 3.0)


def test_spread():
    assert timing.Spread.of([4.0]) == timing.Spread(4.0, 4.0, 4.0)
    assert timing.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Spread(3.0, 2.0, 4.0)
    assert timing.ratios([2.0, 8.0], [1.0, 2.0]).median == 3.0


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
    for case in (*cases.SPEED, cases.MEMORY, cases.QUICK):
        assert cases.Case.parse(str(case)) == case
    with pytest.raises(ValueError, match="8x256"):
        cases.Case.parse("8x256")


def test_names_are_unique_and_an_unknown_one_is_refused():
    names = [provider.name for provider in peers.PROVIDERS]
    assert len(set(names)) == len(names)
    assert [peers.by_name(name) for name in names] == list(peers.PROVIDERS)
    with pytest.raises(ValueError, match="'nobody'"):
        peers.by_name("nobody")
