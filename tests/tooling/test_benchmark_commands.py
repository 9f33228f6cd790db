"""The benchmark's commands as a user types them: run, compare, plot, static, end-to-end, and through the package."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import __main__ as commands
from benchmarks import rows
from benchmarks.cases import Case
from benchmarks.environment import environment
from benchmarks.peers.truth import error_limit
from benchmarks.speed import compare, end_to_end, plot, run
from benchmarks.speed.sets import EVERYONE
from gcp_kernels.__main__ import main as package_main
from gcp_kernels.commands import bench
from gcp_kernels.nn import GCP
from gcp_kernels.nn.poolings import AveragePool

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
# What a user has, and not what the tests were given: kernels are not interpreted, and no other pytest is around.
USERS = {
    name: value
    for name, value in os.environ.items()
    if name != "TRITON_INTERPRET" and not name.startswith("PYTEST_XDIST")
}
PNG = b"\x89PNG\r\n\x1a\n"


def typed(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=USERS, capture_output=True, text=True, timeout=600, **options
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Make, once, the folder of a small run, and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "small"
    done = typed("benchmarks", "run", "--set", "small", "--device", "cpu", "--threads", "1", "--output", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_rows_of_a_small_run(small):
    folder, out = small
    found = [json.loads(line) for line in (folder / rows.JSON_NAME).read_text().splitlines()]
    names = {*rows.FIELDS, *environment(CPU), "copy_gb_per_s", "product_tflop_per_s", "product"}
    for row in found:
        assert set(row) == names
        assert all(row[name] not in (None, "") for name in environment(CPU))
        assert row["threads"] == 1
        assert row["copy_gb_per_s"] > 0
        case = Case.parse(f"{row['case']} N={row['n_iter']} {row['dtype']} {row['precision']} {row['direction']}")
        timed = row["milliseconds"] is not None
        assert timed == (row["kind"] == "time" and row["problem"] is None)
        if timed:
            assert 0 < row["low"] <= row["milliseconds"] <= row["high"]
            assert row["output_error"] <= row["error_limit"]
            assert (row["gradient_error"] is None) == (row["direction"] == "inference")
            assert row["method"] == "wall clock"
            assert row["baseline"] == "gcp_kernels[torch]"
            assert (row["fraction"] is not None) == (row["truth"] == "iterates")
        if timed and row["truth"] == "iterates":
            assert row["error_limit"] == error_limit(case)
    peaks = [row for row in found if row["kind"] == "memory"]
    assert {row["provider"] for row in peaks if row["problem"] is None} >= {"gcp_kernels[torch]", "published"}
    assert all(row["peak_bytes"] >= 0 for row in peaks if row["problem"] is None)
    with (folder / rows.CSV_NAME).open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == len(found)
    for line in (folder / run.TABLE_NAME).read_text().splitlines():
        assert line in out


def test_a_small_run_says_why_something_is_not_timed(small):
    folder, out = small
    found = rows.read(folder).rows
    problems = {(row.provider, row.positions): row.problem for row in found if row.n_iter == 5 and row.problem}
    # Public code gives NaN for a constant sample, and is therefore not timed on one.
    assert problems["published", 1] == "failing: error inf / inf, limit 1.0e-05"
    assert "published              not timed  failing: error inf / inf, limit 1.0e-05" in out
    assert ("gcp_kernels[torch]", 1) not in problems
    assert problems["gcp_kernels[triton]", 25]
    n_one = next(row for row in found if row.provider == "published" and row.n_iter == 1)
    assert n_one.problem == "the published operations need n_iter of at least 2"
    exact = {row.provider: row for row in found if row.group == "exact"}
    assert exact["eigh"].truth == "root"
    assert 0 < exact["pade-lyapunov"].root_distance < 0.1


def test_plots_of_a_run(small, tmp_path, capsys):
    folder, _ = small
    assert plot.main([str(folder), "--output", str(tmp_path)]) == 0
    assert "peak_memory_against_batch: the run has no rows for it" in capsys.readouterr().out
    drawn = {path.stem: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(drawn) == set(plot.PLOTS) - {"peak_memory_against_batch"}
    for content in drawn.values():
        assert content.startswith(PNG)
        assert len(content) > 5000


def test_peaks_are_drawn_from_either_kind_of_run(tmp_path):
    for kind, group in (("memory", "memory"), ("time", "batch")):
        folder = tmp_path / kind
        cases = [Case(batch, 16, 5, 5) for batch in (1, 4)]
        write(folder, [rows.Row.of(kind, group, case, "published", "iterates", peak_bytes=2**20) for case in cases])
        assert plot.main([str(folder)]) == 0
        assert (folder / "peak_memory_against_batch.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("command", [plot.main, lambda arguments: compare.main([*arguments, *arguments])])
def test_a_folder_without_a_run_is_refused(command, tmp_path, capsys):
    assert command([str(tmp_path)]) == 2
    assert "give the folder of a run" in capsys.readouterr().err


def write(folder, found, **setting):
    writer = rows.Writer(folder, {**environment(CPU), **setting})
    writer.write(found)
    writer.finish()
    return str(folder)


def timed(milliseconds, low, high, **options):
    options = {"milliseconds": milliseconds, "low": low, "high": high, **options}
    return rows.Row.of("time", "made up", Case(2, 16, 5, 5), "gcp_kernels[torch]", "iterates", **options)


def test_compare_as_typed(small, tmp_path):
    """Of a small run no time is judged: it has too few rounds. Memory is."""
    folder, _ = small
    same = typed("benchmarks", "compare", str(folder), str(folder))
    assert same.returncode == 0, same.stderr
    assert re.search(r"^\d+ times of ours are not judged: .* fewer than 5 rounds$", same.stdout, re.MULTILINE)
    read = rows.read(folder)
    larger = [replace(row, saved_bytes=2 * row.saved_bytes) if row.saved_bytes else row for row in read.rows]
    done = typed("benchmarks", "compare", str(folder), write(tmp_path / "larger", larger, threads=1))
    assert done.returncode == 1
    assert done.stdout.count("MiB kept (x2.00)") == sum(bool(row.saved_bytes) for row in read.rows)


def test_run_is_the_default_and_takes_filters(tmp_path, capsys):
    arguments = ["--set", "small", "--device", "cpu", "--group", "network", "--case", "forward", "--provider", "torch"]
    assert commands.main([*arguments, "--output", str(tmp_path)]) == 0
    (row,) = [row for row in rows.read(tmp_path).rows if row.provider == "gcp_kernels[torch]"]
    assert (row.group, row.direction) == ("network", "forward")
    assert commands.main([*arguments, "--provider", "nobody", "--case", "no such case"]) == 2
    captured = capsys.readouterr()
    assert "nothing to measure" in captured.err
    assert "nothing to measure" not in captured.out
    with pytest.raises(SystemExit) as ending:
        commands.main(["run", *arguments, "--list"])
    assert ending.value.code is None or ending.value.code == 0
    assert "forward" in capsys.readouterr().out


def test_a_run_that_is_out_of_time_says_what_it_left(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run.time, "perf_counter", iter(range(0, 10**6, 100)).__next__)
    monkeypatch.setattr(run, "time_case", lambda *arguments: pytest.fail("begun too late"))
    arguments = ["--set", "small", "--device", "cpu", "--group", "exact", "--budget", "10", "--output", str(tmp_path)]
    monkeypatch.setattr(run, "measure_ceilings", lambda device: run.Ceilings(1.0, 1.0, "made up"))
    assert run.main(arguments) == 0
    assert capsys.readouterr().out.count("not begun within the 10 s of --budget") == 5


def test_a_run_in_which_ours_is_wrong_ends_with_one(monkeypatch, capsys):
    wrong = timed(None, None, None, problem="failing: error 1.0e+00, limit 1.0e-05")
    monkeypatch.setattr(run, "time_case", lambda *arguments: [wrong])
    monkeypatch.setattr(run, "measure_ceilings", lambda device: run.Ceilings(1.0, 1.0, "made up"))
    assert run.main(["--set", "small", "--device", "cpu", "--group", "exact"]) == 1
    assert "OURS IS WRONG: gcp_kernels[torch]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--device", "meta"], ["--set", "tiny"], ["--output", __file__], ["--threads", "x"]],
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        run.main(arguments)
    assert ending.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_commands_are_listed_and_an_unknown_one_is_refused(capsys):
    with pytest.raises(SystemExit) as ending:
        commands.main(["--help"])
    assert ending.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"    {name} " in listed for name in commands.MODULES)
    with pytest.raises(SystemExit) as ending:
        commands.main(["walk"])
    assert ending.value.code == 2
    assert "invalid choice: 'walk' (choose from" in capsys.readouterr().err


def test_static_is_dispatched(capsys):
    with pytest.raises(SystemExit) as ending:
        commands.main(["static", "--help"])
    assert ending.value.code == 0
    assert "python -m benchmarks static" in capsys.readouterr().out


SELECTED = ["--set", "small", "--device", "cpu", "--group", "exact", "--provider", "eigh"]


def test_the_package_forwards_to_the_suite_and_says_when_it_cannot(monkeypatch, capsys, tmp_path):
    assert package_main(["bench", "run", *SELECTED]) == 0
    assert "eigh" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ending:
        package_main(["bench", "run", "--help"])
    assert ending.value.code == 0
    assert "python -m benchmarks run" in capsys.readouterr().out
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    assert package_main(["bench", "run"]) == 2
    assert "needs a checkout" in capsys.readouterr().err


def test_the_package_does_not_import_the_suite():
    script = "import sys, gcp_kernels.__main__; sys.exit(any(name.startswith('benchmarks') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_pytest_benchmark_runs_the_same_cases(tmp_path):
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed (the extra bench has it)")
    file = tmp_path / "benchmark.json"
    done = typed(
        "pytest", "benchmarks/", "--benchmark-only", "-q", "-k", "exact or positions", "--benchmark-max-time=0.01",
        "--benchmark-min-rounds=2", f"--benchmark-json={file}", "-p", "no:cacheprovider",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    names = [one["name"] for one in json.loads(file.read_text())["benchmarks"]]
    assert "test_pooling[exact-2x16x9x9-N=5-float32-high-both-eigh]" in names
    assert not [name for name in names if "2x16x1x1" in name and "published" in name], "a wrong peer is not timed"


class Stand(nn.Module):
    """As much of a residual network as its last layers need: features of 8 channels, ``avgpool`` and ``fc``."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, stride=4)
        self.avgpool = GCP(8, dim=4)
        self.fc = nn.Linear(10, 5)

    def forward(self, images):
        return self.fc(torch.flatten(self.avgpool(self.backbone(images)), 1))


@pytest.mark.parametrize("channels_last", [False, True])
def test_end_to_end_trains_the_same_network_with_each_pooling(tmp_path, channels_last):
    batch = end_to_end.Batch.of(2, 32, 5, CPU, channels_last)
    assert batch.images.is_contiguous(memory_format=batch.memory_format)
    assert (batch.memory_format == torch.channels_last) == channels_last
    found = end_to_end.measure(batch, "float32", Stand, rounds=2)
    assert [row.provider for row in found] == list(end_to_end.POOLINGS)
    for row in found:
        assert row.problem is None
        assert row.milliseconds > 0
        assert row.peak_bytes >= 0
        assert row.case == "2x3x32x32"
    networks = {name: end_to_end.network(name, Stand) for name in end_to_end.POOLINGS}
    for one in networks.values():
        assert torch.equal(one.backbone.weight, networks["average"].backbone.weight)
    ours, published = networks["gcp_kernels"], networks["published"]
    for (name, mine), (other_name, theirs) in zip(
        ours.state_dict().items(), published.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(published(batch.images), ours(batch.images), rtol=1e-4, atol=1e-5)
    assert isinstance(networks["average"].avgpool, AveragePool)
    assert networks["average"](batch.images).shape == (2, 5)
    write(tmp_path / "steps", found)
    assert rows.read(tmp_path / "steps").rows == found


def test_steps_of_different_networks_are_not_compared():
    names = [
        end_to_end.group_of(name, drop_stride, channels_last)
        for name in end_to_end.NETWORKS
        for drop_stride in (False, True)
        for channels_last in (False, True)
    ]
    assert len(set(names)) == len(names)
    assert end_to_end.group_of("resnet50", True, True) == "end to end: resnet50, no last stride, channels last"


def test_a_network_that_does_not_learn_is_not_timed():
    class Broken(Stand):
        def forward(self, images):
            return super().forward(images) * float("nan")

    found = end_to_end.measure(end_to_end.Batch.of(2, 32, 5, CPU), "float32", Broken, rounds=1)
    assert all(row.problem.startswith("failing: the losses") and row.milliseconds is None for row in found)


@pytest.mark.thorough
def test_end_to_end_of_networks_of_torchvision(tmp_path, capsys):
    """Each pooling behind the same backbone, with as many positions: 2x2 of 64 pixels, and 4x4 without the stride."""
    if reason := end_to_end.why_not_torchvision():
        assert end_to_end.main([]) == 2
        assert reason in capsys.readouterr().err
        pytest.skip(reason)
    arguments = ["--device", "cpu", "--batch", "2", "--image", "64", "--rounds", "1", "--output", str(tmp_path)]
    names = ["resnet18", "mobilenet_v2"]
    assert end_to_end.main([*arguments, "--network", *names, "--drop-stride", "--channels-last"]) == 0
    found = rows.read(tmp_path).rows
    assert [(row.group, row.provider) for row in found] == [
        (f"end to end: {name}, no last stride, channels last", pooling)
        for name in names
        for pooling in end_to_end.POOLINGS
    ]
    assert all(row.milliseconds > 0 for row in found)
    pooled = []
    for pooling, drop_stride in product(end_to_end.POOLINGS, (False, True)):
        factory = partial(end_to_end.torchvision_network, "mobilenet_v2", drop_stride)
        model = end_to_end.network(pooling, factory)
        model.covariance_pool.register_forward_hook(
            lambda module, inputs, output: pooled.append(tuple(inputs[0].shape[1:]))
        )
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, end_to_end.CLASSES)
    assert pooled == [(1280, 2, 2), (1280, 4, 4)] * 3


def test_every_provider_has_a_colour():
    assert set(plot.COLOURS) == set(EVERYONE)


def test_the_documentation_has_every_command():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in commands.MODULES if not re.search(rf"`(?:[^`|]* )?{name}[ `]", page)] == []
