"""Timing on a GPU: cold inputs, calls that can be captured in a CUDA graph, and what is left after one that cannot."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import environment, timing
from benchmarks.cases import DIRECTIONS, Case, make_inputs
from benchmarks.peers import truth
from benchmarks.peers.providers import by_name
from benchmarks.speed import gpu_timing, measure

CPU = torch.device("cpu")
CASE = Case(2, 16, 5, 5)


def test_inputs_are_kept_out_of_the_cache():
    """Copies in turn read more than the cache between two uses of one; small inputs have the cache overwritten."""
    large = gpu_timing.Cold.of(input_bytes=30, cache_bytes=50)
    assert large == gpu_timing.Cold(copies=5, flushed=0)
    assert (large.copies - 1) * 30 >= gpu_timing.CACHE_MULTIPLE * 50
    assert gpu_timing.Cold.of(1000, 50).copies == 2
    small = gpu_timing.Cold.of(1, 50)
    assert small == gpu_timing.Cold(copies=1, flushed=100)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_timed_calls_share_the_memory_of_the_inputs_but_no_node_of_autograd(direction):
    """Such a node stays on the stream of its first graph, and no backward pass to it can be captured on another."""
    seen = []

    def pool(features):
        seen.append(features)
        return truth.reference_pool(5)(features)

    inputs = make_inputs(CASE, CPU)
    verified = truth.step(pool, inputs.features, inputs.upstream)
    eager, captured = (measure.calls_of(pool, "iterates", direction, [inputs])[0] for _ in range(2))
    results = [eager(), captured()]
    given, *timed = seen
    assert given is inputs.features
    assert inputs.features.grad is None
    assert all(features.is_leaf and features.data_ptr() == given.data_ptr() for features in timed)
    assert all(features.requires_grad is (direction != "inference") for features in timed)
    if direction != "inference":
        nodes = [torch.autograd.graph.get_gradient_edge(features).node for features in seen]
        assert len(set(nodes)) == 3
    if direction in ("backward", "both"):
        assert all(torch.equal(result[-1], verified[1]) for result in results)


def test_after_a_capture_that_failed_work_goes_to_the_stream_of_before(monkeypatch):
    """As in torch.cuda.graph, which does not come to give the stream back when the end of the capture raises."""
    default, side = SimpleNamespace(wait_stream=lambda other: None), SimpleNamespace(wait_stream=lambda other: None)
    current, ran_on = [default], []

    @contextmanager
    def stream(chosen):
        depth = len(current)
        current.append(chosen)
        try:
            yield
        finally:
            del current[depth:]

    @contextmanager
    def graph(_, stream):
        current.append(stream)
        yield
        raise RuntimeError("operation failed due to a previous error during capture")

    fakes = {
        "stream": stream, "graph": graph, "current_stream": lambda device: current[-1], "CUDAGraph": object,
        "synchronize": lambda device: None,
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(gpu_timing, "capture_stream", lambda device: side)
    with pytest.raises(RuntimeError, match="during capture"):
        gpu_timing.graph_clock([lambda: ran_on.append(current[-1])], gpu_timing.Cold(1, 0), torch.device("cuda"))
    assert ran_on == [side] * (gpu_timing.WARM_UP + 1)
    assert current[-1] is default


@pytest.mark.gpu
def test_graphs_and_events_agree_on_a_gpu():
    """A large case, where launches hide behind the work; the graph's calls run on cold inputs like the others."""
    device = torch.device("cuda", torch.cuda.current_device())
    case = Case(64, 256, 14, 14, dtype="bfloat16", precision="fast")
    budget = timing.Budget.on(device, rounds=5)
    for direction in DIRECTIONS:
        found = measure.time_case(
            "made up",
            replace(case, direction=direction),
            [by_name("gcp_kernels[torch]"), by_name("autograd")],
            device,
            budget,
        )
        for row in found:
            assert row.problem is None, row
            assert row.method == measure.GRAPH, row
            assert row.milliseconds <= 1.1 * row.eager_milliseconds
            assert row.milliseconds >= 0.1 * row.eager_milliseconds
        if direction == "both":
            assert all(row.peak_bytes >= row.saved_bytes > 0 for row in found)
    assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device)
    state = environment.gpu_state(device)
    assert not state or state["sm_clock_mhz"] > 0
