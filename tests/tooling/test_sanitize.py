"""The checks that run under compute-sanitizer: that none of the kernels is missing, and that what is wrong shows."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.support.extension import built
from tests.support.kernel_sources import SOURCES, form_of

pytest.importorskip("triton", reason="half of the kernels are Triton's")

from benchmarks.sanitize import checks as sanitize_cases
from benchmarks.sanitize import sanitize
from benchmarks.sanitize.checks import CHANNELS, ON_POSITIONS, FunctionCheck, LaunchCheck, Work
from benchmarks.sanitize.outcome import matrices_of, outcome_of

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
CPU = torch.device("cpu")
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here the checks run on the GPU")

# What Triton is asked to compile in all checks of an architecture, and in what form.
LAUNCHED = """
import json, sys
from benchmarks.sanitize.checks import triton_launches
from benchmarks.codegen.triton_kernels import launched
arch = int(sys.argv[1])
kernels = [kernel for check in triton_launches(arch) for kernel in launched(check.case, arch)]
print(json.dumps(sorted({(kernel.form, kernel.name, kernel.direction, kernel.precision) for kernel in kernels})))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_every_triton_kernel_is_launched(arch):
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED, str(arch)], cwd=ROOT, env=USERS, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = {tuple(one) for one in json.loads(done.stdout)}
    written = {
        (form_of(source), name)
        for source in SOURCES
        for name in re.findall(r"^def (\w+_kernel)\(", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert {(form, name) for form, name, _, _ in found} == written
    for form in {form for form, _ in written}:
        assert {(way, precision) for one, _, way, precision in found if one == form} == {
            (way, precision) for way in ("forward", "backward") for precision in ("fast", "high")
        }


def test_the_tool_is_told_the_names_of_all_kernels():
    """The tool checks only kernels that a filter lets through."""
    ours, tritons = (value.partition("=")[2] for value in sanitize.TOOL_OPTIONS if value.startswith(("kns=", "regex=")))
    for source in SOURCES:
        for name in re.findall(r"^def (\w+_kernel)\(", source.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert re.search(tritons, name), name
    sources = [path for path in (ROOT / "csrc").rglob("*.cu*") if "__global__" in path.read_text(encoding="utf-8")]
    assert sources
    for path in sources:
        assert f"namespace {ours} {{" in path.read_text(encoding="utf-8"), path.name


def test_every_operation_and_channel_count_of_the_extension_is_there():
    found = sanitize_cases.checks(("cuda",), 90)
    assert {one.operation for one in found} == {"isqrt_pool", "covariance_pool", "triu_vec", "triu_unvec"}
    for sizes, positions in (({(c, 49 if c <= 64 else 300) for c in CHANNELS}, False), (set(ON_POSITIONS), True)):
        pooling = [one for one in found if one.operation == "isqrt_pool" and one.on_positions == positions]
        assert {((one.c, one.m), one.precision) for one in pooling} == set(product(sizes, ("fast", "high")))
        for name, values in (("channels_last", {False, True}), ("output", {"triu", "full"})):
            assert {getattr(one, name) for one in pooling} == values
        assert {bool(one.wraps) for one in pooling} == {False, True}
    assert {one.scaled for one in found if one.operation == "covariance_pool"} == {False, True}
    assert len(set(map(str, found))) == len(found)


@built
@pytest.mark.parametrize("limit_kib", [99, 163, 227])
def test_matrices_are_resident_in_some_checks_and_streamed_in_others(limit_kib):
    found = [one for one in sanitize_cases.checks(("cuda",), 90) if one.operation == "isqrt_pool"]
    kinds = set()
    for one, backward in product(found, (False, True)):
        resident, matrices = matrices_of(one, backward, limit_kib << 10)
        if resident:
            kinds.add((one.on_positions, backward, one.precision, resident == matrices))
    missing = set(product((False, True), (False, True), ("fast", "high"), (False, True))) - kinds
    # Forward, in "fast", 256 channels or positions fit where a block has 227 KiB.
    assert missing == ({(side, False, "fast", False) for side in (False, True)} if limit_kib == 227 else set())


@without_a_gpu
@pytest.mark.parametrize(
    "text",
    [
        "on chip forward of features C=12 ", "on chip backward of features C=16 ",
        "persistent forward of features C=32 ", "persistent backward of features C=32 ", "isqrt_pool C=32 ",
    ],
)  # fmt: skip
def test_checks_of_triton_pass(text, capsys):
    found = [one for one in sanitize_cases.checks(("triton",), 90) if text in str(one)]
    assert {"fast", "high"} <= {word for one in found for word in str(one).split()}
    for one in found:
        assert one.why_not(CPU) is None
        assert outcome_of(one, CPU).verdict == "ok", str(one)


@pytest.mark.parametrize("operation", sanitize_cases.OPERATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_function_is_held_to_float64(operation, dtype):
    """The torch backend stands for the others; each function's own arguments are what is tested."""
    scaled = operation == "covariance_pool"
    check = FunctionCheck("torch", operation, 20, "high", dtype, channels_last="pool" in operation, scaled=scaled)
    outcome = outcome_of(check, CPU)
    assert len(outcome.errors) == (3 if scaled else 2)
    assert outcome.verdict == "ok"


class Wrong(FunctionCheck):
    def _value(self, leaves, backend):
        value = super()._value(leaves, backend)
        return value if backend == "reference" else value * 1.01


@without_a_gpu
def test_what_is_wrong_or_raises_is_a_failure(capsys, monkeypatch):
    right = FunctionCheck("torch", "isqrt_pool", 20, "high", "float32")
    assert sanitize.passes(right, CPU)
    assert not sanitize.passes(Wrong("torch", "isqrt_pool", 20, "high", "float32"), CPU)
    monkeypatch.setattr(Work, "errors", lambda self, found: [0.0, float("nan")])
    assert not sanitize.passes(right, CPU)

    def broken(self, device):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(FunctionCheck, "work", broken)
    assert not sanitize.passes(right, CPU)
    monkeypatch.setattr(FunctionCheck, "why_not", lambda self, device: "it does not fit")
    assert sanitize.passes(right, CPU), "what this GPU cannot run is said, and no failure"
    ok, wrong, nan, raised, not_run = capsys.readouterr().out.splitlines()
    assert ok.startswith("ok      torch isqrt_pool C=20 float32 high triu: error ")
    assert wrong.startswith("FAILED  torch isqrt_pool")
    assert "nan" in nan
    assert "RuntimeError: an illegal memory access" in raised
    assert not_run == "not run torch isqrt_pool C=20 float32 high triu: it does not fit"


@without_a_gpu
def test_the_exit_status_is_that_of_the_checks(capsys, monkeypatch):
    right = FunctionCheck("torch", "isqrt_pool", 20, "high", "float32")
    wrong = Wrong("torch", "isqrt_pool", 20, "high", "float32")
    args = sanitize.parse(["--backend", "triton"])
    for found, code in (([right], 0), ([right, wrong, right], 1)):
        monkeypatch.setattr(sanitize, "selected", lambda *_, found=found: found)
        assert sanitize.run(args, CPU, 90) == code
        assert capsys.readouterr().out.endswith(f"{len(found)} checks, {code} failed\n")
    # Wrong numbers leave the GPU usable, an illegal access does not.
    monkeypatch.setattr(sanitize, "lost", lambda device: True)
    assert sanitize.run(args, CPU, 90) == sanitize.LOST
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 checks, 1 failed; ")
    assert sanitize.run(sanitize.parse(["--backend", "cuda"]), CPU, 90) == 1
    assert capsys.readouterr().out.startswith("FAILED  no kernel of cuda can run: ")


def test_the_limit_of_a_launch_is_the_promise_of_its_precision():
    launches = [one for one in sanitize_cases.checks(("triton",), 90) if isinstance(one, LaunchCheck)]
    assert {one.limit for one in launches} == {2 * 5e-6, 2 * 2.5e-3 + 2**-7}


# --- under a tool ---


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Write a program that runs what it is given, as compute-sanitizer does; its arguments go to a file."""
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$PYTORCH_NO_CUDA_MEMORY_CACHING $*" >> "$ARGUMENTS"\n'
        '[ -n "$SILENT" ] || echo "========= RACECHECK SUMMARY: ${HAZARDS:-0} hazards displayed (0 errors)"\n'
        '[ -z "$ENDS_WITH" ] || exit "$ENDS_WITH"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("ARGUMENTS", str(tmp_path / "arguments"))
    monkeypatch.setattr(sanitize.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sanitize.torch.cuda, "get_device_capability", lambda: (9, 0))
    return tmp_path / "arguments"


def test_the_tool_gets_every_share_of_the_checks(tool, capsys):
    assert sanitize.main(["--tool", "racecheck", "--backend", "cuda", "--only", "C=100", "--jobs", "2"]) == 0
    calls = sorted(tool.read_text().splitlines())
    assert len(calls) == 2
    for index, call in enumerate(calls):
        assert call.startswith("1 --tool racecheck ")
        assert "--error-exitcode 86" in call
        # Neither compilers nor torch's kernels are instrumented, and a wrong access ends its kernel alone.
        # It has time until torch is imported.
        assert "--target-processes application-only --launch-timeout 120 --destroy-on-device-error kernel" in call
        assert "--kernel-name kns=gcp_kernels --kernel-name regex=^[a-z_]+_kernel$" in call
        assert call.endswith(f"-m benchmarks sanitize --backend cuda --only C=100 --share {index} 2")
    assert capsys.readouterr().out.count("RACECHECK SUMMARY") == 2


def test_what_was_found_until_a_time_limit_is_printed(tool, capsys, monkeypatch):
    """Of ``timeout``, which sends its signal to the process and then to all of its group."""
    program = Path(os.environ["CUDA_HOME"], "bin", "compute-sanitizer")
    program.write_text('#!/bin/sh\necho "9 checks begin"\necho "ok      $*"\necho . >> "$ARGUMENTS"\nexec sleep 600\n')
    wait, end = time.sleep, sanitize.Share.end

    def limit_reached_when_both_have_begun(seconds):
        wait(seconds)
        if tool.exists() and len(tool.read_text()) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    def end_and_get_the_second_signal(share):
        os.kill(os.getpid(), signal.SIGTERM)
        return end(share)

    monkeypatch.setattr(sanitize.time, "sleep", limit_reached_when_both_have_begun)
    monkeypatch.setattr(sanitize.Share, "end", end_and_get_the_second_signal)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            sanitize.main(["--tool", "racecheck", "--backend", "cuda", "--only", "C=100", "--jobs", "2"])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert ended.value.code == 128 + signal.SIGTERM
    assert re.findall(r"^ok .* --share (\d) 2$", capsys.readouterr().out, re.MULTILINE) == ["0", "1"]


@pytest.mark.parametrize(
    ("ending", "named"),
    [
        ('echo "2 checks, 1 failed; this process can use the GPU no more"; exit 87', False),
        ("kill -SEGV $$", True),
    ],
)
def test_checks_after_one_that_takes_the_gpu_or_its_process_along_go_on_in_another(tool, capsys, ending, named):
    program = Path(os.environ["CUDA_HOME"], "bin", "compute-sanitizer")
    program.write_text(
        '#!/bin/sh\necho "$*" >> "$ARGUMENTS"\necho "========= ERROR SUMMARY: 0 errors"\n'
        'case "$*" in *"--share 0 3") echo "5 checks begin"; echo "ok      first: right"\n'
        f'  [ {int(named)} = 1 ] || echo "FAILED  second: an illegal access"\n{ending} ;; esac\n'
        'echo "1 checks begin"; echo "ok      another: right"; echo "1 checks, 0 failed"\n'
    )
    assert sanitize.main(["--tool", "memcheck", "--backend", "cuda", "--jobs", "3"]) == 1
    # The first process came to its second check, which is number 3; the next of its share is number 6.
    calls = [re.search(r"--tool memcheck .*--share (\d) 3$", call)[1] for call in tool.read_text().splitlines()]
    assert sorted(calls) == ["0", "1", "2", "6"]
    printed = capsys.readouterr().out
    second = str(sanitize_cases.checks(("cuda",), 90)[3])
    assert (f"FAILED  {second}: its process ended with -11" in printed) == named
    assert printed.count("ok      another: right") == 3


def test_a_process_that_does_not_begin_is_not_tried_for_every_check(tool, capsys, monkeypatch):
    monkeypatch.setenv("ENDS_WITH", "1")
    assert sanitize.main(["--tool", "memcheck", "--jobs", "2"]) == 1
    assert len(tool.read_text().splitlines()) == 2


def test_a_text_that_no_check_has_is_a_failure(tool, capsys):
    assert sanitize.main(["--only", "C=7"]) == 1
    assert "no check has the text 'C=7'" in capsys.readouterr().out


def test_a_share_is_for_one_process(capsys):
    with pytest.raises(SystemExit):
        sanitize.parse(["--share", "0", "2", "--tool", "memcheck"])
    assert "--share is for one process without a tool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"ENDS_WITH": "86"}, "memcheck found errors"),
        ({"ENDS_WITH": "1"}, "ended with 1"),
        ({"HAZARDS": "3"}, "memcheck found 3"),
        ({"SILENT": "1"}, "memcheck printed no summary: it saw no kernel"),
    ],
)
def test_what_the_tool_finds_is_a_failure(tool, capsys, monkeypatch, setting, said):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert sanitize.main(["--tool", "memcheck"]) == 1
    assert re.search(rf"^FAILED  .*: {said}$", capsys.readouterr().out, re.MULTILINE)


def test_a_missing_tool_is_a_failure_that_says_so(tool, capsys, monkeypatch, tmp_path):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setattr(sanitize.shutil, "which", lambda name, path=None: None)
    assert sanitize.main(["--tool", "memcheck"]) == 1
    assert "FAILED  compute-sanitizer is missing" in capsys.readouterr().out


def test_shares_are_all_of_the_checks_once(capsys):
    assert sanitize.main(["--list"]) == 0
    whole = capsys.readouterr().out.splitlines()
    assert len(whole) > 100
    shares = []
    for index in range(3):
        assert sanitize.main(["--list", "--share", str(index), "3"]) == 0
        shares += capsys.readouterr().out.splitlines()
    assert sorted(shares) == sorted(whole)


@without_a_gpu
def test_it_refuses_without_a_gpu(capsys):
    assert sanitize.main([]) == 2
    assert "needs a GPU that torch can use" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.own_part
def test_the_checks_pass_on_the_gpu():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "sanitize", "--only", "C=100", "--jobs", "2"],
        cwd=ROOT, env=USERS, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
