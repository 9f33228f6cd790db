"""What only a GPU can show: streams, devices, graphs, synchronisation, TF32 and tensors of more than 2^31 elements."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, reference
from gcp_kernels.ops import backends
from tests.support import inputs, oracle, tolerances

pytestmark = pytest.mark.gpu

OPERATIONS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "fused_gcp": ("isqrt_pool", fused_gcp),
    "fused_gcp_on_positions": ("isqrt_pool", fused_gcp),
    "fused_gcp_full": ("isqrt_pool", partial(fused_gcp, output="full")),
    "covariance_pool": ("covariance_pool", covariance_pool),
    "newton_schulz_sqrt": ("newton_schulz_sqrt", newton_schulz_sqrt),
}
# Each operation on each backend that has it.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    f"{name} {backend}": partial(function, backend=backend)
    for name, (operation, function) in OPERATIONS.items()
    for backend, module in backends.BACKENDS.items()
    if operation in module.OPERATIONS
}


def skip_unless_it_runs(backend: str, operation: str, x: Tensor) -> None:
    if (reason := backends.BACKENDS[backend].why_not(operation, x)) is not None:
        pytest.skip(f"{backend} cannot run {operation} here: {reason}")


def example(name: str, device: str = "cuda", b: int = 4) -> Tensor:
    kind, backend = name.split()
    if kind == "newton_schulz_sqrt":
        x = inputs.covariance_matrices(b, 32, torch.float32).to(device)
    else:
        x = inputs.relu_features(b, 32, 16 if kind == "fused_gcp_on_positions" else 49, torch.float32).to(device)
    skip_unless_it_runs(backend, OPERATIONS[kind][0], x)
    return x


def run(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor | None = None) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value) if grad is None else grad)
    return value.detach(), gradient


@pytest.mark.parametrize("name", FUNCTIONS)
def test_current_stream_is_used(name: str) -> None:
    """The input is written late on a side stream; work on any other stream would read it too early."""
    function, x = FUNCTIONS[name], example(name)
    expected = run(function, x)
    late = torch.full_like(x, float("nan"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(x)
        results = run(function, late)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    for ours, theirs in zip(results, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensor_on_another_device_than_the_current(name: str) -> None:
    x = example(name)
    expected = run(FUNCTIONS[name], x)
    with torch.cuda.device(0):
        results = run(FUNCTIONS[name], x.to("cuda:1"))
        assert torch.cuda.current_device() == 0
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.device == torch.device("cuda:1")
        tolerances.assert_promise_kept(ours, theirs.cpu(), "high", name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_cuda_graph(name: str) -> None:
    """Captured once, replayed on new features: forward and backward follow."""
    function = FUNCTIONS[name]
    x = example(name).requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run(function, x)
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value))

    for _ in range(2):
        fresh = example(name)
        with torch.no_grad():
            x.copy_(fresh)
        graph.replay()
        expected = run(function, fresh)
        assert torch.equal(value, expected[0])
        assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_host_never_waits_for_the_device(name: str) -> None:
    x = example(name)
    run(FUNCTIONS[name], x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(FUNCTIONS[name], x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("tf32_allowed")
@pytest.mark.parametrize("backend", ["torch", "triton", "cuda"])
@pytest.mark.parametrize("spectrum", inputs.SPECTRA)
@pytest.mark.parametrize("precision", [None, "fast", "high"])
def test_tf32_allowed_keeps_the_promises(precision: str | None, spectrum: str, backend: str) -> None:
    """With TF32 allowed the default becomes "fast"; "high" stays float32-class whatever torch is allowed."""
    skip_unless_it_runs(backend, "isqrt_pool", torch.ones(1, 128, 196, device="cuda"))
    x, grad = inputs.SPECTRA[spectrum](2, 128, 196, torch.float32), torch.randn(2, 128, 128)

    def pool(x: Tensor) -> Tensor:
        return fused_gcp(x, output="full", precision=precision, backend=backend)

    value, gradient = run(pool, x.to("cuda"), grad.to("cuda"))
    tolerances.assert_promise_kept(value, oracle.isqrt_pool(x, 5), precision or "fast", "value")
    tolerances.assert_promise_kept(gradient, oracle.isqrt_pool_grad(x, 5, grad), precision or "fast", "gradient")


def _skip_without_memory(gigabytes: float) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes:.0f} GB of free GPU memory, has {free / 1e9:.0f} GB")


LARGE = {"features": (2_100_000, 8, 128), "matrices": (33_000, 256, 4), "positions": (3, 8, 90_000_000)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "b", "c", "m"),
    [
        *(pytest.param(one, *LARGE[what], id=f"{what} {one}") for what in LARGE for one in ("torch", "triton", "cuda")),
        # Whose results are written by other kernels on the side of the channels.
        pytest.param("cuda", 33_000, 256, 260, id="matrices of many positions cuda"),
    ],
)
def test_more_than_two_to_the_31_elements(backend: str, b: int, c: int, m: int) -> None:
    """Indices need 64 bits: B C M, B C C, or C M of one sample are beyond 2^31. The last sample shows it."""
    skip_unless_it_runs(backend, "isqrt_pool", torch.ones((), device="cuda").expand(1, c, m))
    assert max(b * c * m, b * c * c) > 2**31
    _skip_without_memory(8 * 4 * max(b * c * m, b * c * c) / 1e9)
    x = torch.zeros(b, c, m, dtype=torch.bfloat16, device="cuda")
    few = torch.randn(2, c, min(m, 128), device="cuda").to(x.dtype)
    picked = torch.tensor([0, b - 1], device="cuda")
    x[picked, :, -few.shape[-1] :] = few
    value, gradient = run(lambda x: fused_gcp(x, output="full", backend=backend), x)
    small_value, small_gradient = run(lambda x: fused_gcp(x, output="full", backend="reference"), x[picked])
    tolerances.assert_promise_kept(value[picked], small_value.cpu(), "fast", "value")
    tolerances.assert_promise_kept(gradient[picked], small_gradient.cpu(), "fast", "gradient")
    if b > 2:
        assert not value[1].any()
        assert not gradient[1].any()


def test_gpu_and_cpu_agree() -> None:
    x = inputs.relu_features(4, 64, 49)
    on_cpu, on_gpu = (run(lambda x: fused_gcp(x, output="full"), x.to(device)) for device in ("cpu", "cuda"))
    tolerances.assert_same_float64(on_gpu[0], on_cpu[0], "value")
    tolerances.assert_same_float64(on_gpu[1], on_cpu[1], "gradient")
    tolerances.assert_same_float64(reference.isqrt_pool(x.cuda()), on_cpu[0], "reference")


def test_peak_memory_of_a_training_step_is_small() -> None:
    """At B = C = 256 public code keeps 832 MiB of iterates for backward; here only statistics are kept."""
    x = torch.randn(256, 256, 196, device="cuda", requires_grad=True)
    run(fused_gcp, x[:2])
    before = torch.cuda.memory_allocated()
    value = fused_gcp(x)
    kept = torch.cuda.memory_allocated() - before - value.numel() * value.element_size()
    assert kept <= 1.1 * (256 * 257 * 4) + 2**20
