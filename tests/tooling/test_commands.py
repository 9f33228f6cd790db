"""``python -m gcp_kernels``: info, selftest, and the command line itself."""

import math
import re
import subprocess
import sys
import types

import pytest
import torch

import gcp_kernels
from gcp_kernels.__main__ import main
from gcp_kernels.commands import bench, info, selftest
from gcp_kernels.ops.backends import AUTO_ORDER
from gcp_kernels.ops.rooms import OPERATIONS

pytestmark = pytest.mark.versions


def test_runs_as_a_module():
    completed = subprocess.run(
        [sys.executable, "-m", "gcp_kernels", "--version"], capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == f"gcp_kernels {gcp_kernels.__version__}"


def test_info_names_versions_and_a_verdict_of_every_backend_on_every_operation(capsys):
    assert main(["info"]) == 0
    report = capsys.readouterr().out
    assert torch.__version__ in report
    for operation in OPERATIONS:
        verdicts = re.search(rf"^{operation} on cpu, .*:\n((?:    .*\n)+)", report, flags=re.MULTILINE)[1]
        assert [line.split()[0] for line in verdicts.splitlines()] == list(AUTO_ORDER)
        assert verdicts.count("serves it") == 1
    assert "no: it needs a CUDA tensor" in report or "no: extension not" in report
    assert "interpreted on the CPU" in report or torch.cuda.is_available()


def test_info_shows_the_side_of_every_shape(capsys):
    """Under each heading the torch backend, which serves every shape here, names its side of them, the smaller one."""
    main(["info"])
    report = capsys.readouterr().out
    found = re.findall(r"^isqrt_pool on cpu, (.*):\n((?:    .*\n)+)", report, flags=re.MULTILINE)
    sides = {
        tuple(map(int, shape)): re.search(r"torch +serves it, on the side of the (\w+)$", verdicts, re.MULTILINE)[1]
        for shapes, verdicts in found
        for shape in re.findall(r"\((\d+), (\d+), (\d+)\)", shapes)
    }
    assert set(sides) == set(info.SHAPES)
    assert {side for (_, c, m), side in sides.items() if m < 0.8 * c} == {"positions"}
    assert {side for (_, c, m), side in sides.items() if m > c} == {"channels"}


def test_selftest_passes_here(monkeypatch, capsys):
    if not torch.cuda.is_available():
        monkeypatch.setattr(selftest, "SHAPES", [(2, 20, 33)])  # the shipped ones take minutes in Triton's interpreter
    assert main(["selftest"]) == 0
    report = capsys.readouterr().out
    assert " 0 failed" in report
    assert "WRONG" not in report
    assert "not checked: triton on cpu, triu_vec" in report
    assert "triton   cpu     isqrt_pool" in report or torch.cuda.is_available()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("fault", ["value", "gradient", "nan"])
def test_selftest_finds_a_wrong_backend(monkeypatch, capsys, fault):
    right = gcp_kernels.covariance_pool

    def wrong(x, *, backend, **options):
        if backend == "reference":
            return right(x, backend=backend, **options)
        if fault == "value":
            return right(x, backend=backend, **options) * 1.01
        if fault == "nan":
            return right(x, backend=backend, **options) * float("nan")
        return right(x.detach() + 1.01 * (x - x.detach()), backend=backend, **options)

    monkeypatch.setattr(selftest, "BACKENDS", {"torch": selftest.BACKENDS["torch"]})
    monkeypatch.setitem(selftest.FUNCTIONS, "covariance_pool", wrong)
    devices = 2 if torch.cuda.is_available() else 1
    assert main(["selftest"]) == 1
    report = capsys.readouterr().out
    assert report.count("WRONG") == devices * len(selftest.ARITHMETIC)
    assert f"{devices * len(selftest.ARITHMETIC)} failed" in report


@pytest.mark.parametrize("lost", [False, True])
def test_selftest_goes_on_after_a_row_that_raises_unless_the_gpu_is_lost(monkeypatch, capsys, lost):
    def broken(x, *, backend, **options):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def synchronize(device):
        if lost:
            raise RuntimeError("CUDA error: the same again")

    monkeypatch.setattr(selftest, "BACKENDS", {"torch": selftest.BACKENDS["torch"]})
    monkeypatch.setattr(selftest, "SHAPES", [(2, 5, 7)])
    monkeypatch.setitem(selftest.FUNCTIONS, "covariance_pool", broken)
    monkeypatch.setattr(selftest.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(selftest.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(selftest.torch.cuda, "synchronize", synchronize)
    assert main(["selftest"]) == 1
    report = capsys.readouterr().out
    kinds = len(selftest.ARITHMETIC)
    raised = re.findall(r"^torch +cpu +covariance_pool .*  FAILED RuntimeError: CUDA error: an illegal", report, re.M)
    assert len(raised) == (1 if lost else kinds)
    # isqrt_pool comes before what raises, and all other functions after it.
    assert report.count("  ok\n") == (kinds if lost else kinds * (len(selftest.FUNCTIONS) - 1))
    assert ("this process can use the GPU no more" in report) == lost
    assert f"{1 if lost else kinds} failed" in report


def test_selftest_shows_each_row_at_once(monkeypatch):
    """Stopped for taking too long it leaves what it has found so far, also in a file."""
    flushed = []
    monkeypatch.setattr("builtins.print", lambda *values, flush=False, **_: flushed.append((values, flush)))
    monkeypatch.setattr(selftest, "BACKENDS", {"torch": selftest.BACKENDS["torch"]})
    monkeypatch.setattr(selftest, "SHAPES", [(2, 5, 7)])
    selftest.run(None)
    rows = [flush for values, flush in flushed if str(values[0]).endswith("  ok")]
    assert rows
    assert all(rows)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--set", "small"], ["--help"], ["-h"], ["run", "--set", "small"], ["run", "--help"], ["--nonsense"],
        ["compare", "a", "--margin", "5", "b"], ["plot", "--", "-x"], ["nonsense"], ["--version"], [""], ["-1"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("code", [0, 2])
def test_bench_passes_everything_on_and_the_exit_code_back(arguments, code, monkeypatch):
    passed = []

    def benchmarks(given):
        passed.append(given)
        return code

    monkeypatch.setattr(bench.importlib, "import_module", lambda name: types.SimpleNamespace(main=benchmarks))
    assert main(["bench", *arguments]) == code
    assert passed == [arguments]


@pytest.mark.parametrize("options", [[], ["--help"], ["--output", "folder"]])
@pytest.mark.parametrize("name", ["demo", "train", "reproduce"])
def test_a_command_that_left_the_package_says_in_a_line_where_it_is(name, options, capsys):
    assert main([name, *options]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("gcp_kernels: error: ")
    assert said.err.endswith(f"run python -m experiments {name} in a checkout of the repository\n")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["info", "--nonsense"]])
def test_wrong_arguments_exit_with_2_and_say_what_is_allowed(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: gcp_kernels" in capsys.readouterr().err


def test_selftest_counts_nan_as_the_largest_error():
    assert math.isnan(max([1.0, float("nan"), 2.0], key=selftest._nan_is_largest))
