"""What is kept between forward and backward: on a GPU the features and B(C + 1) numbers, never anything of C x C."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, triu_unvec, triu_vec

B, C, M = 3, 32, 7


def saved_by(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """List the tensors that the autograd graph of ``function(x)`` keeps."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(x)
    assert value.requires_grad
    return saved


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "fused_gcp_triu": fused_gcp,
    "fused_gcp_full": lambda x: fused_gcp(x, output="full"),
    "fused_gcp_seven_iterations": lambda x: fused_gcp(x, n_iter=7),
    "covariance_pool": covariance_pool,
}


# torch without CUDA cannot make an autograd graph on fake CUDA tensors (it asks for the CUDA runtime and aborts), but
# can on meta tensors, which are not on the CPU either. The operators themselves are asked with fake CUDA tensors.


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_off_the_cpu_features_mean_and_trace_are_saved(name: str, dtype: torch.dtype) -> None:
    x = torch.empty(B, C, M, dtype=dtype, device="meta", requires_grad=True)
    saved = [tensor for tensor in saved_by(POOLS[name], x) if tensor.numel()]
    shapes = [tuple(tensor.shape) for tensor in saved]
    assert set(shapes) <= {(B, C, M), (B, C), (B,)}, shapes
    assert shapes.count((B, C, M)) == 1
    assert sum(tensor.numel() for tensor in saved) <= B * C * M + B * (C + 1)
    assert [tensor.dtype for tensor in saved if tensor.shape == (B, C, M)] == [dtype]


def test_off_the_cpu_a_root_keeps_its_matrix_and_trace() -> None:
    cov = torch.empty(B, C, C, device="meta", requires_grad=True)
    assert sum(tensor.numel() for tensor in saved_by(newton_schulz_sqrt, cov)) <= B * C * C + B


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_operators_on_fake_cuda_tensors_return_no_iterates(backend: str) -> None:
    with FakeTensorMode():
        x, cov = torch.empty(B, C, M, device="cuda"), torch.empty(B, C, C, device="cuda")
        pooled, *kept = torch.ops.gcp_kernels.isqrt_pool(x, 5, True, True, "default", backend)
        root, *kept_by_root = torch.ops.gcp_kernels.newton_schulz_sqrt(cov, 5, True, "default", backend)
    assert (pooled.shape, root.shape) == ((B, C * (C + 1) // 2), (B, C, C))
    assert pooled.device.type == root.device.type == "cuda"
    assert sum(tensor.numel() for tensor in kept) == B * (C + 1)
    assert sum(tensor.numel() for tensor in kept_by_root) == B


@pytest.mark.gpu
@pytest.mark.parametrize("name", POOLS)
def test_on_a_gpu_features_mean_and_trace_are_saved(name: str) -> None:
    saved = saved_by(POOLS[name], torch.randn(B, C, M, device="cuda", requires_grad=True))
    assert sum(tensor.numel() for tensor in saved) <= B * C * M + B * (C + 1)


def test_triangles_keep_nothing(device: str) -> None:
    assert not saved_by(triu_vec, torch.randn(B, C, C, device=device, requires_grad=True))
    assert not saved_by(triu_unvec, torch.randn(B, C * (C + 1) // 2, device=device, requires_grad=True))


VIEWS: dict[str, tuple[int, Callable[[], Tensor]]] = {
    "contiguous": (1, lambda: torch.randn(B, C, 2, 4)),
    "channels_last": (1, lambda: torch.randn(B, C, 2, 4).to(memory_format=torch.channels_last)),
    "tokens": (-1, lambda: torch.randn(B, M + 1, C)[:, 1:]),
    "part_of_the_channels": (1, lambda: torch.randn(B, 2 * C, 2, 4)[:, 3 : C + 3]),
    "strided_positions": (1, lambda: torch.randn(B, C, 16)[..., ::2]),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pool", [fused_gcp, covariance_pool])
def test_saved_features_are_the_callers_and_no_copy(pool: Callable[..., Tensor], view: str, device: str) -> None:
    channel_dim, make = VIEWS[view]
    x = make().to(device).requires_grad_()
    saved = saved_by(lambda x: pool(x, channel_dim=channel_dim), x)
    storages = [t.untyped_storage().data_ptr() for t in saved if t.numel() == x.numel() and t.shape[1] == C]
    assert x.untyped_storage().data_ptr() in storages


@pytest.mark.parametrize("keep", [True, False])
def test_iterates_are_an_empty_output_unless_kept(keep: bool, device: str) -> None:
    x = torch.randn(B, C, M, device=device)
    count = 10 if keep and device == "cpu" else 0
    *_, iterates = torch.ops.gcp_kernels.isqrt_pool(x, 5, True, keep, "default", "auto")
    assert iterates.shape == ((B, count, M, M) if count else (B, 0, C, C))
    *_, iterates = torch.ops.gcp_kernels.isqrt_pool(x.repeat(1, 1, 4), 5, True, keep, "default", "auto")
    assert iterates.shape == (B, count, C, C)
    *_, iterates = torch.ops.gcp_kernels.newton_schulz_sqrt(x @ x.mT, 5, keep, "default", "auto")
    assert iterates.shape == (B, count, C, C)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, None])
def test_nothing_is_kept_without_a_backward_pass(mode: Callable[[], torch.no_grad] | None, device: str) -> None:
    """Under no_grad and inference_mode, and for features that need no gradient, no operator is asked for iterates."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Outputs(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.numel: list[int] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            results = func(*args, **(kwargs or {}))
            if func.namespace == "gcp_kernels":
                self.numel.append(sum(tensor.numel() for tensor in results))
            return results

    x = torch.randn(B, C, M, device=device, requires_grad=mode is not None)
    cov = (x @ x.mT).detach().requires_grad_(mode is not None)
    with Outputs() as outputs:
        if mode is None:
            fused_gcp(x), newton_schulz_sqrt(cov)
        else:
            with mode():
                fused_gcp(x), newton_schulz_sqrt(cov)
    assert outputs.numel == [B * C * (C + 1) // 2 + B * C + B, B * C * C + B]
