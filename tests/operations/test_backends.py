"""The choice of a backend: "auto" takes the first in its order that can, a named one runs or raises."""

import pytest
import torch

from gcp_kernels import fused_gcp
from gcp_kernels.ops import backends, times
from gcp_kernels.ops.torch_device.batch_slices import FEW_MATRICES, ITERATED, slice_size, slices

X = torch.zeros(1, 2, 3)


def test_auto_takes_the_first_backend_that_can(monkeypatch):
    monkeypatch.setattr(backends, "auto_order", lambda device_type: backends.AUTO_ORDER)
    monkeypatch.setattr(backends.BACKENDS["triton"], "why_not", lambda *_: "the moon is full")
    assert backends.select("isqrt_pool", X, "auto") == "torch"
    monkeypatch.setattr(backends.BACKENDS["triton"], "why_not", lambda *_: None)
    assert backends.select("isqrt_pool", X, "auto") == "triton"


def test_auto_never_takes_an_interpreter():
    assert backends.auto_order("cpu") == ("torch",)
    assert backends.auto_order("cuda") == ("cuda", "triton", "torch")


def test_a_named_backend_that_cannot_run_raises_with_its_reason(monkeypatch):
    monkeypatch.setattr(backends.BACKENDS["triton"], "why_not", lambda *_: "the moon is full")
    with pytest.raises(RuntimeError, match=r"backend='triton' cannot run isqrt_pool: the moon is full"):
        fused_gcp(X, backend="triton")


def test_auto_without_any_backend_names_every_reason(monkeypatch):
    monkeypatch.setattr(backends, "auto_order", lambda device_type: backends.AUTO_ORDER)
    for name, module in backends.BACKENDS.items():
        monkeypatch.setattr(module, "why_not", lambda *_, name=name: f"{name} is tired")
    tried = times.order("isqrt_pool", *X.shape[1:], "high", backends.AUTO_ORDER, False)
    assert set(tried) == set(backends.BACKENDS)
    with pytest.raises(RuntimeError, match=".*".join(f"{name} is tired" for name in tried)):
        fused_gcp(X)


def test_a_backend_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ValueError, match=r"'cuda', 'triton', 'torch', got 'bogus'"):
        backends.select("isqrt_pool", X, "bogus")


@pytest.mark.parametrize("config", [ITERATED, FEW_MATRICES])
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("batch", [0, 1, 7, 1000])
@pytest.mark.parametrize(("channels", "positions"), [(1, 1), (64, 49), (256, 196), (1024, 49), (3, 50176)])
def test_slices_cover_the_batch_once_within_their_memory(device_type, batch, channels, positions, config):
    device, dtype = torch.device(device_type), torch.float32
    size = slice_size(batch, channels, positions, dtype, device, config)
    parts = list(slices(batch, size))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(batch))
    assert all(part.stop - part.start <= size for part in parts)
    limit = config.cpu if device.type == "cpu" else config.gpu
    assert size == 1 or size * channels * max(channels, positions) * dtype.itemsize <= limit
