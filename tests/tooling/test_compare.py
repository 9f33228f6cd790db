"""Two runs side by side: what became slower than its peers did, larger or wrong, and what other work does to times."""

import random
import statistics
from dataclasses import replace

import pytest
import torch

from benchmarks import rows
from benchmarks.cases import Case
from benchmarks.environment import environment
from benchmarks.speed import compare
from benchmarks.timing import Spread, ratios

CASE = Case(2, 16, 5, 5)
# Milliseconds of each on a quiet machine.
QUIET = {"gcp_kernels[torch]": 10.0, "published": 20.0, "pytorchcv": 19.0, "autograd": 15.0, "average": 0.1}
OURS = "gcp_kernels[torch]"


def write(folder, found, **setting):
    writer = rows.Writer(folder, {**environment(torch.device("cpu")), **setting})
    writer.write(found)
    writer.finish()
    return str(folder)


def measured(load=0.0, seed=0, rounds=9, case=CASE, kind="time", **slower):
    """Make rows as a run writes them; ``load`` is how much other work may slow a round, for all providers alike."""
    drawn = random.Random(seed)
    busy = [1 + drawn.uniform(0, load) for _ in range(rounds)]
    times = {
        name: [quiet * slower.get(name.partition("[")[0], 1.0) * factor * drawn.uniform(0.99, 1.01) for factor in busy]
        for name, quiet in QUIET.items()
    }
    found = []
    for name, own in times.items():
        spread, ratio = Spread.of(own), ratios(own, times[OURS])
        found.append(
            rows.Row.of(
                kind, "made up", case, name, "mean" if name == "average" else "iterates", rounds=rounds,
                milliseconds=spread.median, low=spread.low, high=spread.high, baseline=OURS,
                ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high,
            )
        )  # fmt: skip
    return found


@pytest.fixture
def compared(tmp_path, capsys):
    """Compare, and give the exit code and what was printed."""

    def run(before, after, *options):
        folders = [write(tmp_path / name, found) for name, found in (("before", before), ("after", after))]
        code = compare.main([*folders, *options])
        return code, capsys.readouterr().out

    return run


def test_a_machine_that_is_slower_makes_nothing_worse(compared):
    everyone = dict.fromkeys((name.partition("[")[0] for name in QUIET), 3.0)
    code, said = compared(measured(), measured(seed=1, **everyone))
    assert code == 0
    assert "better: 0" in said
    assert "WORSE: 0" in said
    assert "not judged" not in said
    code, said = compared(measured(), measured(seed=1, **everyone), "--absolute")
    assert code == 1
    assert "WORSE: 5" in said, "in milliseconds all of them are slower"


@pytest.mark.parametrize("load", [0.0, 3.0])
def test_ours_alone_is_slower(compared, load):
    code, said = compared(measured(load), measured(load, seed=1, gcp_kernels=1.2))
    assert code == 1
    assert "better: 0\n\nWORSE: 1\n" in said
    assert "of pytorchcv, so 3 of 3 peers (x1.2" in said or "so 3 of 3 peers (x1.1" in said
    code, said = compared(measured(load, gcp_kernels=1.2), measured(load, seed=1))
    assert code == 0
    assert "better: 1\n" in said


def test_other_work_that_comes_and_goes_is_noise(compared):
    """Twenty pairs of runs of one program, in which a round takes up to four times as long as another."""
    medians = []
    for seed in range(20):
        before, after = measured(3.0, seed=2 * seed), measured(3.0, seed=2 * seed + 1)
        medians.append(after[0].milliseconds / before[0].milliseconds)
        code, said = compared(before, after)
        assert code == 0, said
        assert "better: 0" in said
    assert statistics.pstdev(medians) > 0.1, "the times themselves differ"


def test_a_peer_is_the_yardstick_and_is_not_judged(compared):
    code, said = compared(measured(), measured(seed=1, published=2.0))
    assert (code, "better: 0" in said, "WORSE: 0" in said) == (0, True, True), "two of three peers saw no change"
    code, said = compared(measured(), measured(seed=1, average=50.0))
    assert code == 0
    only_average = [row for row in measured() if row.provider in (OURS, "average")]
    code, said = compared(only_average, only_average)
    assert "1 times of ours are not judged: no peer was timed beside them in both runs; --absolute" in said


def test_a_backend_beside_another_of_ours_is_held_against_the_same_peers(compared, monkeypatch):
    monkeypatch.setitem(QUIET, "gcp_kernels[triton]", 12.0)
    before, after = measured(), measured(seed=1)
    slow = [
        replace(row, **{name: 1.5 * getattr(row, name) for name in ("ratio", "ratio_low", "ratio_high")})
        if row.provider == "gcp_kernels[triton]"
        else row
        for row in after
    ]
    code, said = compared(before, slow)
    assert code == 1
    assert "WORSE: 1\n  gcp_kernels[triton]" in said


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"gcp_kernels": 1.03}, 0, "WORSE: 0"),  # within the margin
        ({"gcp_kernels": 2.0, "rounds": 3}, 0, "1 times of ours are not judged: they or their peers have fewer than 5"),
        ({"gcp_kernels": 2.0, "case": Case(4, 16, 5, 5)}, 2, "0 measurements in both runs"),
    ],
)
def test_what_is_no_change_and_what_is_not_judged(compared, change, code, said):
    assert compared(measured(), measured(seed=1, **change))[0] == code
    assert said in compared(measured(), measured(seed=1, **change))[1]


def test_quartiles_that_overlap_are_no_change(compared):
    slow = measured(seed=1, gcp_kernels=1.2)
    assert compared(measured(), slow)[0] == 1
    wide = [replace(row, ratio_low=row.ratio / 2, ratio_high=row.ratio * 2) for row in slow]
    assert compared(measured(), wide)[0] == 0


def test_steps_of_a_network_are_compared_too(compared):
    before, after = (
        [replace(row, provider=row.provider.removesuffix("[torch]"), baseline="gcp_kernels") for row in found]
        for found in (measured(kind="step"), measured(kind="step", seed=1, gcp_kernels=1.3))
    )
    code, said = compared(before, after)
    assert code == 1
    assert "WORSE: 1\n  gcp_kernels  " in said


def test_rows_without_a_baseline_are_compared_by_their_times(compared):
    def bare(found):
        return [replace(row, ratio=None, ratio_low=None, ratio_high=None, baseline=None, rounds=None) for row in found]

    assert compared(bare(measured()), bare(measured(seed=1)))[0] == 0
    assert compared(bare(measured()), bare(measured(seed=1, gcp_kernels=1.5)))[0] == 1


def test_memory_is_compared_as_it_is_and_a_lost_figure_is_worse(compared):
    ours = replace(measured()[0], saved_bytes=2**20)
    assert compared([ours], [ours])[0] == 0
    code, said = compared([ours], [replace(ours, saved_bytes=2**21)])
    assert code == 1
    assert "1 -> 2 MiB kept (x2.00)" in said
    code, said = compared([ours], [replace(ours, milliseconds=None, problem="failing: error")])
    assert code == 1
    assert "NO FIGURE ANY MORE: 1" in said
    left = replace(ours, case="4x16x5x5", milliseconds=None, problem=f"{rows.NOT_BEGUN} the 10 s of --budget")
    code, said = compared([ours, replace(ours, case="4x16x5x5")], [ours, left])
    assert code == 0, "a run that had less time has lost nothing"
    assert "1 measurements in both runs, 1 only before, 0 only after" in said


def test_runs_of_different_machines_are_refused(tmp_path, capsys):
    before = write(tmp_path / "before", measured())
    after = write(tmp_path / "after", measured(), device="another")
    assert compare.main([before, after]) == 2
    assert "the runs differ in device" in capsys.readouterr().err
    assert compare.main([before, after, "--anyway"]) == 0
    other = [replace(row, group="another") for row in measured()]
    assert compare.main([before, write(tmp_path / "other", other)]) == 2
    assert "no measurement in common" in capsys.readouterr().err
