"""What reports say of where runs are from, of a GPU too."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from experiments.reproduction import origins
from experiments.running import Log

pytestmark = pytest.mark.same_without_gpu

GPU = torch.device("cuda", 0)


class Images:
    def fingerprint(self):
        return "0123"


class Backend:
    def __init__(self, reason):
        self.reason = reason

    def why_not(self, operation, tensor):
        assert operation == "isqrt_pool"
        assert tensor.device == GPU
        return self.reason


@pytest.mark.parametrize(("cuda", "kernels"), [(None, "cuda, triton, torch"), ("extension not built", "triton, torch")])
def test_runs_of_other_kernels_are_not_mixed(monkeypatch, tmp_path, cuda, kernels):
    """An extension that was not carried along is no other setting, and decides over the last digits."""
    found = {"cuda": Backend(cuda), "triton": Backend(None), "torch": Backend(None)}
    monkeypatch.setattr(origins.backends, "BACKENDS", found)
    with FakeTensorMode():
        assert origins.versions_of(Images(), GPU)["kernels"] == kernels
    assert "kernels" not in origins.versions_of(Images(), torch.device("cpu"))


def test_minutes_on_a_gpu_are_said_with_how_many_shared_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(origins, "commit_of", lambda folder: "0123456789ab")
    for processes, keys in ((8, "abc"), (1, "de")):
        log = Log(tmp_path / "runs", {}, origins.origin(GPU, processes))
        for key in keys:
            log.add(key, {}, 60.0)
    day = origins.date.today().isoformat()
    assert origins.how_made(log) == [
        f"3 runs of 3.0 minutes in all, up to 8 at a time on the GPU: commit 0123456789ab, {day}, NVIDIA H100",
        f"2 runs of 2.0 minutes in all: commit 0123456789ab, {day}, NVIDIA H100",
    ]


def test_the_cores_of_a_cpu_are_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "commit_of", lambda folder: "0123456789ab")
    log = Log(tmp_path / "runs", {}, origins.origin(processes=8))
    log.add("a", {}, 90.0)
    (line,) = origins.how_made(log)
    assert line.startswith("1 run of 1.5 minutes in all: commit 0123456789ab, ")
    assert line.endswith(" CPU")
