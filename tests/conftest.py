"""What all tests share: devices and backends to run on, fixed seeds, NaN-poisoned fresh memory, skips that show.

Without a GPU the Triton kernels are interpreted on the CPU, so every test of a backend runs on them too.
"""

import importlib.util
import os
import signal
from collections.abc import Iterator
from typing import Any

# The matrices here are small, and threads that wait for one another on a shared machine cost ten times the work. Set
# before torch is there, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from gcp_kernels.commands.lost_gpu import why_lost
from gcp_kernels.ops.cuda_device.extension import why_not_loaded
from tests.support import sampling
from tests.support.backend_pairs import DEVICES, runnable
from tests.support.emulated import emulation, library  # noqa: F401  fixtures
from tests.support.torchvision_stand_in import FOR_TESTS  # noqa: F401  before anything imports torchvision

# Deterministic mode, which poisons fresh memory (below), wants this set before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if not torch.cuda.is_available():
    # Read when the first kernel is imported. Processes that tests start for themselves inherit it.
    os.environ.setdefault("TRITON_INTERPRET", "1")


# What a process of tests ends with that has lost the GPU.
LOST = 86
# Why the run is to end, once it is.
stopped: list[str] = []
# What a process of tests may hold of the GPU from one test to the next; others share it.
KEPT_BYTES = 256 << 20


def stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # timeout sends it twice
    # PYTEST_CURRENT_TEST is the test of this process; with workers this process has none.
    running = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    stopped.append("stopped by SIGTERM" + (f" in {running}" if running else ""))
    pytest.exit(stopped[0])


def stop_later(*_: object) -> None:
    signal.alarm(2)


def pytest_configure(config: pytest.Config) -> None:
    # Who stops the run for taking too long still gets the failures so far, and the file of --junit-xml. timeout sends
    # the signal to workers too, who have to be there until the process that reports has heard of it as well.
    signal.signal(signal.SIGTERM, stop_later if hasattr(config, "workerinput") else stop)
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
        from tests.support import triton_interpreter

        if (reason := triton_interpreter.why_not()) is not None:
            triton_interpreter.skip_what_wants_it(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """End the run after an illegal access: the process cannot use the GPU any more, and later tests would seem to fail.

    Of several workers this one ends: xdist names the test, and starts another for those that are left. A process that
    has all the tests ends them, in order.
    """
    result = yield
    if stopped:  # what the signal raised was caught, as compilers do, and taken for this test's failure
        pytest.exit(stopped[0])
    if (reason := why_lost()) is not None:
        if hasattr(item.config, "workerinput"):
            os._exit(LOST)
        pytest.exit(f"the GPU is lost to this process after {item.nodeid}: {reason}", returncode=LOST)
    give_memory_back()
    return result


def give_memory_back() -> None:
    """Return to the GPU what torch has kept of freed tensors, where it is much: torch itself would keep it to the end.

    A little stays, since asking the GPU for memory again takes longer than a small test.
    """
    if torch.cuda.is_initialized() and torch.cuda.memory_reserved() > KEPT_BYTES:
        torch.cuda.empty_cache()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    sampling.sample(items)
    # Files that take minutes come first: the last one to start may then end while another process still has work.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    missing = {"extension": why_not_loaded()}
    if not torch.cuda.is_available():
        missing["gpu"] = "needs a CUDA GPU, none is visible to torch"
    for item in items:
        for marker, reason in missing.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give backend and device to tests with a marked operation, and each device to others that ask for one."""
    if marker := metafunc.definition.get_closest_marker("operation"):
        pairs = runnable(marker.args[0])
        metafunc.parametrize(("backend", "device"), pairs, ids=[f"{name}-{device}" for name, device in pairs])
    elif "device" in metafunc.fixturenames:
        by_itself = any("device" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
        if not by_itself:
            metafunc.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(20180618)


@pytest.fixture
def several_threads() -> Iterator[None]:
    """Use more than one thread, for tests of what their number or timing might change."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill every fresh tensor with NaN, so that an element which no kernel writes, or which is read first, shows.

    Not for tests of reproducibility: the mode that fills memory also makes torch choose reproducible algorithms.
    """
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
