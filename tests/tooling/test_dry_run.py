"""What a search would try, as text for another program: the same each time, and nothing else."""

import pytest

pytest.importorskip("triton", reason="the configurations are those of Triton's kernels")

from benchmarks.tune import tune


class Accepting:
    """A compiler that accepts every kernel, but those of one width."""

    def problems(self, launches, archs, shared):
        return [["it spills"] if "block=128" in repr(cases[0].choice) else [] for cases in launches]


def listed(capsys, *arguments):
    assert tune.main([*arguments, "--dry-run", "--arch", "90"], compiler=Accepting()) == 0
    return capsys.readouterr()


def test_a_dry_run_prints_what_it_would_try_and_says_apart_from_it_where_it_is(capsys):
    first, again = (listed(capsys, "all", "--precision", "fast") for _ in range(2))
    assert first.out == again.out
    headings = [line for line in first.out.splitlines() if line and line[0] not in " !"]
    counts = [line for line in headings if line.endswith("are legal")]
    entries = [line for line in headings if "; to be timed: " in line]
    assert len(entries) == len(counts) > 1
    assert [line for line in headings if line not in {*counts, *entries}] == [headings[-1]]
    assert headings[-1].startswith("thresholds: ")
    assert any(
        line.startswith("! Tiling(block=128") and line.endswith(": it spills") for line in first.out.splitlines()
    )
    assert "compiling" not in first.out
    progress = first.err.splitlines()
    assert len(progress) == len(entries)
    for line, entry in zip(progress, entries, strict=True):
        assert line == f"compiling candidates for {entry.partition(', in ')[0]}"
