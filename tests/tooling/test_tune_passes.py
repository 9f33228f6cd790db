"""The passes that a search for launch configurations times: held to float64, on cold copies."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="the configurations are those of Triton's kernels")

from benchmarks.codegen.triton_kernels import KernelCase
from benchmarks.sanitize.triton_pass import Pass
from benchmarks.tune import gpu as tune_gpu
from gcp_kernels.ops.triton_device.policy import OnChip, Persistent, Tiling

pytestmark = pytest.mark.same_without_gpu


@pytest.mark.parametrize("choice", [OnChip(16, 16, 1), Persistent(Tiling(16, 16, 16, 1), 2), Tiling(16, 16, 16, 1)])
@pytest.mark.parametrize("backward", [False, True])
def test_a_pass_is_held_to_float64(choice, backward):
    if torch.cuda.is_available():
        pytest.skip("what runs here is shown by the search itself")
    case = KernelCase(choice, backward, "high", torch.float32, 12, b=3, m=20, n_iter=3)
    found = Pass(case, torch.device("cpu"))
    assert found.error(case) < found.limit() == 1e-5
    found.tensors.source[1, 2, 3] += 1.0
    assert found.error(case) > found.limit(), "what was exact before is not now"
    with pytest.raises(ValueError, match="the pass was made for"):
        found.call(replace(case, b=4))


def test_what_is_not_written_is_wrong(monkeypatch):
    monkeypatch.setattr("benchmarks.sanitize.triton_pass.launch_on", lambda case, tensors: None)
    case = KernelCase(OnChip(16, 16, 1), False, "high", torch.float32, 12, b=3, m=20)
    assert Pass(case, torch.device("cpu")).error(case) == float("inf")


def test_the_gpu_times_passes_side_by_side_on_cold_copies(monkeypatch):
    """The clock apart: which launches it is given, and that one shape is made once for all that is verified on it."""
    if torch.cuda.is_available():
        pytest.skip("what runs here is shown by the search itself")
    copies, made = [], []

    def graph_clock(calls, cold, device):
        for call in calls:
            call()
        copies.append((len(calls), cold.copies))
        return lambda: 1e-3 * len(copies)

    monkeypatch.setattr(tune_gpu.gpu_timing, "cache_bytes", lambda device: 4000)
    monkeypatch.setattr(tune_gpu.gpu_timing, "graph_clock", graph_clock)
    monkeypatch.setattr(tune_gpu, "Pass", lambda *arguments: made.append(arguments) or Pass(*arguments))
    gpu = tune_gpu.Gpu(torch.device("cpu"))
    case = KernelCase(OnChip(16, 16, 1), False, "high", torch.float32, 12, b=3, m=20)
    cases = [case, replace(case, choice=Persistent(Tiling(16, 16, 16, 1), 2))]
    assert [len(times) for times in gpu.seconds(cases, 4)] == [4, 4]
    assert copies == [(4, 4), (4, 4)]
    made.clear()
    for one in cases:
        error, limit = gpu.error(one)
        assert error <= limit
    assert len(made) == 1
    gpu.error(replace(case, choice=cases[1].choice.tiling))
    gpu.error(replace(case, b=2))
    assert len(made) == 3, "a plain covariance is another pass, and so is another shape"
