"""How a run of tests ends early, by the hooks of conftest.py: stopped, without the GPU, or with nothing interpreted.

And what they do between tests.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions, pytest.mark.borrowed]

ROOT = Path(__file__).parents[2]
WITH_WORKERS = pytest.param(
    ["-n", "2"],
    id="two workers",
    marks=pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not installed"),
)
ALONE = pytest.param([], id="one process")

HANGS = """
import pathlib, time
def test_right(): pass
def test_wrong(): assert 1 == 2
def test_hangs():
    pathlib.Path("begun").touch()
    time.sleep(120)
"""

# torch.cuda as after an illegal access: it is in use, and every call from then on raises.
LOSES_THE_GPU = """
import pytest, torch
state = {"lost": False}
def synchronize(*_):
    if state["lost"]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
torch.cuda.is_initialized, torch.cuda.synchronize = lambda: True, synchronize
def test_right(): pass
def test_loses_it():
    state["lost"] = True
    assert "this" == "the reason"
@pytest.mark.parametrize("number", range(4))
def test_after(number): assert not state["lost"]
"""


def command(folder, text, *options):
    """Give the command of pytest on a file of its own, with the real conftest.py as a plugin."""
    (folder / "test_tiny.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-ra", "--junit-xml", "found.xml", *options]


def environment(**changed):
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**inherited, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **changed}


def reported(folder):
    """Name -> passed or failed, of the junit file."""
    cases = ElementTree.parse(folder / "found.xml").getroot().iter("testcase")
    return {one.get("name"): "passed" if one.find("failure") is None else "failed" for one in cases}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("workers", [ALONE, WITH_WORKERS])
def test_a_stopped_run_keeps_what_it_found(tmp_path, workers):
    running = subprocess.Popen(
        command(tmp_path, HANGS, *workers),
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)  # for what the workers have found to be heard
    begun = time.monotonic()
    # timeout sends it to its child, and then to the whole group.
    running.send_signal(signal.SIGTERM)
    os.killpg(running.pid, signal.SIGTERM)
    printed, _ = running.communicate(timeout=60)
    assert time.monotonic() - begun < 20, "no longer than gpu-check waits before it kills"
    assert running.returncode == pytest.ExitCode.INTERRUPTED, printed
    assert printed.count("stopped by SIGTERM") == 1
    assert workers or "stopped by SIGTERM in test_tiny.py::test_hangs" in printed
    assert "FAILED test_tiny.py::test_wrong - assert 1 == 2" in printed
    assert "1 failed, 1 passed" in printed
    found = reported(tmp_path)
    assert (found["test_right"], found["test_wrong"]) == ("passed", "failed")


CATCHES_EVERYTHING = """
import os, signal
def test_compiles():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        while True: pass
    except BaseException as error:
        raise RuntimeError("the compiler failed") from error
def test_next(): pass
"""


def test_a_test_that_catches_the_end_does_not_keep_the_run_going(tmp_path):
    done = subprocess.run(
        command(tmp_path, CATCHES_EVERYTHING),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert "stopped by SIGTERM in test_tiny.py::test_compiles" in done.stdout
    assert set(reported(tmp_path)) == {"test_compiles"}


@pytest.mark.thorough
def test_a_worker_without_the_gpu_ends_and_another_goes_on(tmp_path):
    pytest.importorskip("xdist")
    done = subprocess.run(
        command(tmp_path, LOSES_THE_GPU, "-n", "1"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "crashed while running 'test_tiny.py::test_loses_it'" in done.stdout
    assert "AssertionError" in done.stdout, "its own reason is there too"
    assert done.returncode == 1
    assert {name: verdict for name, verdict in reported(tmp_path).items() if "loses" not in name} == {
        "test_right": "passed", **{f"test_after[{number}]": "passed" for number in range(4)},
    }  # fmt: skip


def test_a_single_process_without_the_gpu_ends_in_order(tmp_path):
    done = subprocess.run(
        command(tmp_path, LOSES_THE_GPU), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 86
    assert "the GPU is lost to this process after test_tiny.py::test_loses_it: CUDA error: an illegal" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert reported(tmp_path) == {"test_right": "passed", "test_loses_it": "failed"}


WANTS_THE_INTERPRETER = """
import torch, gcp_kernels
def test_interpreted(): gcp_kernels.fused_gcp(torch.randn(1, 8, 8), backend="triton")
def test_not_interpreted(): gcp_kernels.fused_gcp(torch.randn(1, 8, 8), backend="torch")
"""
# numpy as from 2.4 on with Triton 3.6, in a plugin that is there before conftest.py.
NO_INTERPRETER = """
from triton.runtime import interpreter
def broken(self, *args, **kwargs): raise TypeError("only 0-dimensional arrays")
interpreter.GridExecutor.__call__ = broken
"""


def test_what_wants_an_interpreter_that_cannot_run_is_skipped_with_the_reason(tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "broken.py").write_text(NO_INTERPRETER)
    settings = environment(TRITON_INTERPRET="1")
    settings["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    done = subprocess.run(
        command(tmp_path, WANTS_THE_INTERPRETER, "-v", "-p", "broken"),
        cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "test_tiny.py::test_interpreted SKIPPED" in done.stdout
    assert "test_tiny.py::test_not_interpreted PASSED" in done.stdout
    assert "cannot interpret kernels with numpy" in done.stdout
    assert "only 0-dimensional arrays" in done.stdout


# torch.cuda with an allocator that has kept so many MiB after each test.
KEEPS_MEMORY = """
import pytest, torch
returned = []
torch.cuda.is_initialized, torch.cuda.synchronize = lambda: True, lambda *_: None
torch.cuda.memory_reserved = lambda: kept << 20
torch.cuda.empty_cache = lambda: returned.append(kept)
@pytest.mark.parametrize("number", (200, 300, 5000, 256))
def test_keeps(number):
    global kept
    kept = number
def test_gave_back(): assert returned == [300, 5000]
"""


def test_much_memory_of_a_gpu_is_given_back_after_each_test(tmp_path):
    done = subprocess.run(
        command(tmp_path, KEEPS_MEMORY), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
