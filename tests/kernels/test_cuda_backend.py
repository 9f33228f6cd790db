"""The cuda backend from the public functions down to the kernels' own source, executed on the CPU by an emulation."""

from __future__ import annotations

import re

import pytest
import torch

from gcp_kernels import covariance_pool, fused_gcp
from gcp_kernels.ops import backends
from gcp_kernels.ops.covariance_pool import cuda as covariance
from gcp_kernels.ops.isqrt_pool import cuda as isqrt
from tests.support import inputs, oracle, tolerances
from tests.support.cuda_emulation.operators import EmulatedOperators
from tests.support.cuda_emulation.pooling import SHARED_LIMITS
from tests.support.emulated import needs_emulation
from tests.support.extension import built
from tests.support.scaled_covariance import scales

pytestmark = [pytest.mark.same_without_gpu, needs_emulation]

cuda = backends.BACKENDS["cuda"]
POOLING = ("isqrt_pool", "covariance_pool")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def operators(library, monkeypatch) -> EmulatedOperators:
    """Let the backend take CPU tensors, and emulate its launches."""
    emulated = EmulatedOperators(library)
    monkeypatch.setattr(cuda, "why_not", lambda operation, *_: None if operation in POOLING else "not emulated")
    for module in (isqrt, covariance):
        monkeypatch.setattr(module, "operators", lambda _: emulated)
    return emulated


def gradients(value: torch.Tensor, *leaves: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Differentiate with an upstream gradient that is no dense tensor, and give both."""
    grad = torch.randn(2, *value.shape, dtype=torch.float64).to(value.dtype).movedim(0, -1)[..., 1]
    return grad, torch.autograd.grad(value, leaves, grad)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("precision", ["fast", "high"])
@pytest.mark.parametrize("output", ["triu", "full"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_gcp(operators, dtype, output, precision):
    x = inputs.relu_features(3, 20, 35, dtype).view(3, 20, 5, 7).requires_grad_()
    value = fused_gcp(x, n_iter=4, output=output, precision=precision, backend="cuda")
    grad, (grad_x,) = gradients(value, x)
    assert operators.launches == ["isqrt_pool", "isqrt_pool_backward"]
    assert value.dtype == grad_x.dtype == dtype
    exact = oracle.isqrt_pool(x.detach().flatten(2).double(), 4)
    full = oracle.triangle_grad(grad.double(), 20) if output == "triu" else grad.double()
    tolerances.assert_promise_kept(value.detach(), oracle.triangle(exact) if output == "triu" else exact, precision, "")
    exact = oracle.isqrt_pool_grad(x.detach().flatten(2).double(), 4, full)
    tolerances.assert_promise_kept(grad_x.flatten(2), exact, precision, "gradient")


def test_fused_gcp_of_more_channels_than_positions(operators):
    """On the side of the positions, and there to any number of channels."""
    x = inputs.relu_features(2, 300, 12, torch.float32).view(2, 300, 3, 4).requires_grad_()
    value = fused_gcp(x, n_iter=4, precision="high", backend="cuda")
    grad, (grad_x,) = gradients(value, x)
    assert operators.sides == ["positions", "positions"]
    exact = oracle.isqrt_pool(x.detach().flatten(2).double(), 4)
    tolerances.assert_promise_kept(value.detach(), oracle.triangle(exact), "high", "")
    exact = oracle.isqrt_pool_grad(x.detach().flatten(2).double(), 4, oracle.triangle_grad(grad.double(), 300))
    tolerances.assert_promise_kept(grad_x.flatten(2), exact, "high", "gradient")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("output", ["triu", "full"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_covariance_pool_of_tokens(operators, dtype, output, scaled):
    tokens = inputs.relu_features(3, 20, 35, dtype).mT.contiguous().requires_grad_()
    scale = scales(3, 20).requires_grad_() if scaled else None
    value = covariance_pool(tokens, scale=scale, channel_dim=-1, output=output, precision="high", backend="cuda")
    leaves = (tokens, scale) if scaled else (tokens,)
    grad, results = gradients(value, *leaves)
    assert operators.launches == ["covariance_pool", "covariance_pool_backward"]
    features, factors = tokens.detach().mT.double(), scale.detach().double() if scaled else None
    exact = oracle.covariance_pool(features, factors)
    full = oracle.triangle_grad(grad.double(), 20) if output == "triu" else grad.double()
    tolerances.assert_promise_kept(value.detach(), oracle.triangle(exact) if output == "triu" else exact, "high", "")
    exact = oracle.covariance_pool_grad(features, full, factors)
    tolerances.assert_promise_kept(results[0].mT, exact, "high", "gradient")
    if scaled:
        assert results[1].dtype == scale.dtype
        exact = oracle.covariance_pool_scale_grad(features, full, factors)
        tolerances.assert_promise_kept(results[1], exact, "high", "gradient of the scale")


def test_the_default_precision_of_float32_is_high(operators):
    x = inputs.relu_features(2, 20, 35, torch.float32)
    assert torch.equal(fused_gcp(x, backend="cuda"), fused_gcp(x, backend="cuda", precision="high"))
    assert not torch.equal(fused_gcp(x, backend="cuda"), fused_gcp(x, backend="cuda", precision="fast"))


def test_an_empty_batch(operators):
    x = torch.ones(0, 20, 35, requires_grad=True)
    value = fused_gcp(x, backend="cuda")
    assert value.shape == (0, 210)
    assert torch.autograd.grad(value.sum(), x)[0].shape == x.shape
    assert covariance_pool(x, backend="cuda").shape == (0, 20, 20)
    assert operators.launches == []


def test_second_derivatives_go_through_the_reference(operators):
    x = inputs.relu_features(1, 6, 9, torch.float32).requires_grad_()

    def penalty(backend):
        (first,) = torch.autograd.grad(fused_gcp(x, backend=backend).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(penalty("cuda"), penalty("reference"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", POOLING)
def test_opcheck(operators, operation):
    x = inputs.relu_features(2, 6, 9, torch.float32).requires_grad_()
    if operation == "isqrt_pool":
        torch.library.opcheck(torch.ops.gcp_kernels.isqrt_pool.default, (x, 3, True, True, "high", "cuda"))
    else:
        scale = torch.randn(2, 6).requires_grad_()
        torch.library.opcheck(torch.ops.gcp_kernels.covariance_pool.default, (x, scale, False, "fast", "cuda"))
    assert operators.launches


def test_vmap_and_compile(operators):
    x = inputs.relu_features(4, 6, 9, torch.float32)
    expected = fused_gcp(x, backend="cuda")
    mapped = torch.vmap(lambda part: fused_gcp(part, backend="cuda"))(x.view(2, 2, 6, 9))
    assert torch.equal(mapped.flatten(0, 1), expected)
    compiled = torch.compile(lambda part: fused_gcp(part, backend="cuda"), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)


# --- what it says of tensors that it cannot take ---


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Set the shared memory of the GPU on which a tensor, which is fake, would be."""
    monkeypatch.setattr(cuda, "why_not_device", lambda index: None)

    def choose(gpu: str) -> None:
        def why_not_size(channels: int, planes: int, index: int) -> str | None:
            return torch.ops.gcp_kernels_cuda.pooling_error(channels, planes, SHARED_LIMITS[gpu]) or None

        def why_not_positions(channels: int, positions: int, planes: int, index: int) -> str | None:
            ask = torch.ops.gcp_kernels_cuda.positions_pooling_error
            return ask(channels, positions, planes, SHARED_LIMITS[gpu]) or None

        monkeypatch.setattr(cuda, "why_not_size", why_not_size)
        monkeypatch.setattr(cuda, "why_not_positions", why_not_positions)

    return choose


def why_not(operation: str, *shape: int, dtype=torch.float32, precision="default") -> str | None:
    with torch._subclasses.FakeTensorMode():
        return cuda.why_not(operation, torch.empty(shape, dtype=dtype, device="cuda"), precision)


@pytest.mark.parametrize("operation", [*POOLING, "triu_vec", "triu_unvec"])
def test_dtypes_that_it_serves(operation, monkeypatch):
    """Asked before the GPU is, so that it shows where there is no extension either."""
    monkeypatch.setattr(cuda, "why_not_loaded", lambda: None)
    monkeypatch.setattr(cuda, "why_not_device", lambda index: "the GPU is asked")
    served = [torch.float16, torch.bfloat16, torch.float32]
    if operation.startswith("triu"):
        served.append(torch.float64)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.complex64):
        reason = why_not(operation, 2, 64, 49, dtype=dtype)
        if dtype in served:
            assert reason == "the GPU is asked"
        else:
            assert re.fullmatch(rf"it supports float16, bfloat16, float32(, float64)?, got {dtype}", reason)


@built
@pytest.mark.parametrize("gpu", SHARED_LIMITS)
@pytest.mark.parametrize("operation", POOLING)
def test_up_to_256_channels_run(on_a_gpu, operation, gpu):
    on_a_gpu(gpu)
    for channels in (1, 64, 192, 256):
        assert why_not(operation, 2, channels, 49, precision="fast") is None
        assert why_not(operation, 2, channels, 784, precision="fast") is None
        assert why_not(operation, 2, channels, 49, dtype=torch.bfloat16) is None
    for channels in (257, 2048):
        reason = why_not("covariance_pool", 2, channels, 49)
        assert reason == f"it supports up to 256 channels, got {channels}"
    assert why_not(operation, 1, 2, 2**30) is None
    assert why_not(operation, 1, 2, 2**30 + 1) == f"it supports up to 2^30 positions, got {2**30 + 1}"
    assert "float16, bfloat16, float32, got torch.float64" in why_not(operation, 2, 64, 49, dtype=torch.float64)


@built
@pytest.mark.parametrize("gpu", SHARED_LIMITS)
def test_any_channels_run_at_up_to_256_positions(on_a_gpu, gpu):
    on_a_gpu(gpu)
    for channels in (257, 2048, 8192):
        assert why_not("isqrt_pool", 2, channels, 49) is None
        assert why_not("isqrt_pool", 2, channels, 256, precision="fast") is None
    assert why_not("isqrt_pool", 2, 8193, 49) == "it supports up to 8192 channels, got 8193"
    reason = why_not("isqrt_pool", 2, 257, 257)
    assert reason == "it supports up to 256 channels or up to 256 positions, got 257 and 257"


@built
def test_a_precision_that_does_not_fit_names_the_memory(on_a_gpu):
    on_a_gpu("sm_120")
    assert why_not("isqrt_pool", 2, 192, 196) is None
    reason = why_not("isqrt_pool", 2, 256, 784)
    found = re.fullmatch(r"C = 256 at precision='high' needs (\d+) bytes of shared memory, .* has (\d+)", reason)
    assert int(found[1]) > int(found[2]) == SHARED_LIMITS["sm_120"]
    reason = why_not("isqrt_pool", 2, 300, 196)
    found = re.fullmatch(r"M = 196 at precision='high' does not fit in the (\d+) bytes of shared memory .*", reason)
    assert int(found[1]) == SHARED_LIMITS["sm_120"]
    for positions in (196, 784):
        assert why_not("isqrt_pool", 2, 256, positions, precision="fast") is None
    assert why_not("covariance_pool", 2, 256, 49) is None
    on_a_gpu("sm_80")
    for positions in (49, 196, 784):
        assert why_not("isqrt_pool", 2, 256, positions) is None


@built
def test_auto_takes_it_on_a_gpu_before_triton(on_a_gpu, monkeypatch):
    monkeypatch.setattr(backends.times, "OPERATIONS", frozenset())  # whatever times say of the two
    on_a_gpu("sm_120")
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(2, 256, 784, device="cuda")
        assert backends.select("isqrt_pool", x, "auto", "fast") == "cuda"
        assert backends.select("isqrt_pool", x, "auto", "high") != "cuda"
        with pytest.raises(RuntimeError, match=r"backend='cuda' cannot run isqrt_pool: C = 256 at precision='high'"):
            backends.select("isqrt_pool", x, "cuda", "high")
