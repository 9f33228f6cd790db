"""The registry of providers: our pooling on each backend, and the implementations that it is measured against."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

import gcp_kernels
from gcp_kernels.ops import backends

from ..cases import Case, Pool
from .exact_root import exact_root_pool
from .pade_lyapunov import pade_lyapunov_pool
from .published import published_pool
from .truth import error_limit, mean_pool, reference_pool

# What an implementation without half-precision arithmetic computes in.
ARITHMETIC = {"float16": "float32", "bfloat16": "float32"}


def always(case: Case, device: torch.device) -> str | None:
    return None


@dataclass(frozen=True)
class Provider:
    """One implementation of pooling.

    Attributes:
        build: case -> function (B, C, H, W) -> (B, C(C+1)/2), or (B, C) for the truth "mean".
        why_not: the reason why it cannot run a case on a device, ``None`` where it can.
        truth: what it computes and is held to, a key of :data:`benchmarks.peers.truth.TRUTHS`.
        limit: relative error beyond which its results on a case are wrong, and it is not timed.
        compiles: its first pass on a shape builds code for that shape, which takes long and memory of its own.
        products: the precision of torch's float32 products that it needs; ``None`` for that of the case.
        eager_only: why its passes cannot be captured in a CUDA graph, ``None`` where they can.
    """

    name: str
    summary: str
    build: Callable[[Case], Pool]
    why_not: Callable[[Case, torch.device], str | None] = always
    truth: str = "iterates"
    limit: Callable[[Case], float] = error_limit
    compiles: bool = False
    eager_only: str | None = None
    products: str | None = None


def in_float32(pool: Pool) -> Pool:
    """Wrap a pool without arithmetic for half precision, as its users do: features in float32, result cast back."""

    def cast(features: torch.Tensor) -> torch.Tensor:
        if features.dtype not in (torch.float16, torch.bfloat16):
            return pool(features)
        return pool(features.float()).to(features.dtype)

    return cast


def ours(backend: str) -> Provider:
    """Make the provider of ``fused_gcp`` on one backend."""

    def build(case: Case) -> Pool:
        return lambda features: gcp_kernels.fused_gcp(
            features, n_iter=case.n_iter, precision=case.precision, backend=backend
        )

    def why_not(case: Case, device: torch.device) -> str | None:
        shape = (case.batch, case.channels, case.positions)
        features = torch.zeros((), dtype=getattr(torch, case.dtype), device=device).expand(shape)
        reason: str | None = backends.BACKENDS[backend].why_not("isqrt_pool", features)
        if reason is None and backend not in backends.auto_order(device.type):
            return f"its kernels are interpreted on {device}, which says nothing about speed"
        return reason

    return Provider(f"gcp_kernels[{backend}]", f"gcp_kernels.fused_gcp, {backend} backend", build, why_not)


def build_published(case: Case) -> Pool:
    return in_float32(lambda features: published_pool(features, case.n_iter))


def published_why_not(case: Case, device: torch.device) -> str | None:
    if case.n_iter < 2:
        return "the published operations need n_iter of at least 2"
    # Three at a time: the centring matrix of every sample, and the two that it is made of.
    needed = 4 * case.positions**2 * (case.batch + 2)
    limit = free_bytes(device) // 4
    if needed > limit:
        return f"its M x M centring matrices take {needed / 2**30:.1f} GiB, more than a quarter of the free memory"
    return None


def free_bytes(device: torch.device) -> int:
    """Find how much memory is free on the device; on a CPU outside Linux, assume 4 GiB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as listing:
            return next(int(line.split()[1]) * 1024 for line in listing if line.startswith("MemAvailable:"))
    except OSError:
        return 4 * 2**30


def pytorchcv_why_not(case: Case, device: torch.device) -> str | None:
    if importlib.util.find_spec("pytorchcv") is None:
        return "pytorchcv not installed"
    return None if case.n_iter > 1 else "pytorchcv needs n_iter of at least 2"


def build_pytorchcv(case: Case) -> Pool:
    layer = importlib.import_module("pytorchcv.models.isqrtcovresnet").iSQRTCOVPool(num_iter=case.n_iter)
    # That layer's vectors have a trailing axis of length one.
    return in_float32(lambda features: layer(features).squeeze(-1))


def compile_why_not(case: Case, device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "torch.compile needs Triton"
    return None if shutil.which("g++") or shutil.which("clang++") else "torch.compile needs a C++ compiler"


def compile_half_why_not(case: Case, device: torch.device) -> str | None:
    if case.dtype not in ARITHMETIC:
        return f"features of {case.dtype} are no half precision"
    return compile_why_not(case, device)


def compiled(pool: Pool) -> Pool:
    # Beyond some shapes Dynamo would quietly leave a function uncompiled: each case starts afresh.
    torch.compiler.reset()
    # Left alone, the second shape would be compiled for any size: slower than what a training run gets.
    return torch.compile(pool, dynamic=False, fullgraph=True)


def eigh_limit(case: Case) -> float:
    """Allow ten times the error of float32 iterates.

    Rounding leaves every eigenvalue off by a share of the largest one, which the root of a small one magnifies.
    """
    return magnified(case, 10)


def pade_limit(case: Case) -> float:
    """Allow a hundred times the error of float32 iterates: Q falls from 1 to 11 / 1024 where an eigenvalue is zero."""
    return magnified(case, 100)


def magnified(case: Case, factor: float) -> float:
    """Allow a multiple of the limit for float32 products, and the rounding of the result to half precision."""
    high = replace(case, precision="high")
    return error_limit(high) + (factor - 1) * error_limit(replace(high, dtype=ARITHMETIC.get(case.dtype, case.dtype)))


BACKEND_PROVIDERS = tuple(ours(name) for name in backends.AUTO_ORDER)
PEERS = (
    Provider(
        "published", "the published operations one by one, eager", build_published, published_why_not,
        eager_only="it looks its triangle index up on the device and waits for it",
    ),
    Provider(
        "pytorchcv", "pytorchcv's iSQRTCOVPool, loop-free eager", build_pytorchcv, pytorchcv_why_not,
        eager_only="it copies its triangle index to the device in every pass",
    ),
    Provider(
        "autograd", "gcp_kernels.reference under plain autograd, eager",
        lambda case: in_float32(reference_pool(case.n_iter)),
    ),
    Provider(
        "compile", "torch.compile of gcp_kernels.reference",
        lambda case: compiled(in_float32(reference_pool(case.n_iter))), compile_why_not, compiles=True,
    ),
    Provider(
        "compile-half", "the same, every product in the half precision of the features",
        lambda case: compiled(reference_pool(case.n_iter)), compile_half_why_not, compiles=True,
    ),
    Provider(
        "pade-lyapunov", "Pade root, Lyapunov gradient (Song et al. 2022)", lambda case: in_float32(pade_lyapunov_pool),
        truth="pade", limit=pade_limit, products="high", eager_only="its linear solver may wait for the device",
    ),
    Provider(
        "eigh", "exact root by eigen-decomposition", lambda case: in_float32(exact_root_pool),
        truth="root", limit=eigh_limit, products="high", eager_only="eigh waits for the device",
    ),
    Provider("average", "average pooling: the floor", lambda case: mean_pool, truth="mean"),
)  # fmt: skip
PROVIDERS = BACKEND_PROVIDERS + PEERS


@functools.cache
def by_name(name: str) -> Provider:
    """Find the provider of that name.

    Raises:
        ValueError: there is none.
    """
    for provider in PROVIDERS:
        if provider.name == name:
            return provider
    raise ValueError(f"no provider {name!r}; there are {', '.join(provider.name for provider in PROVIDERS)}")


@contextmanager
def settings(provider: Provider, case: Case) -> Iterator[None]:
    """Make a context with torch's global settings as the provider needs them on this case; its calls are made inside.

    Float32 products are TF32 for "fast" and not for "high", unless the provider needs one of them; the package has an
    option of its own. Compiled code may not reuse saved buffers where one graph is run backward again and again.
    """
    before = torch.get_float32_matmul_precision()
    functorch = importlib.import_module("torch._functorch.config")
    torch.set_float32_matmul_precision("high" if (provider.products or case.precision) == "fast" else "highest")
    try:
        with functorch.patch(donated_buffer=functorch.donated_buffer and case.direction != "backward"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
