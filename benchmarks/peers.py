"""The registry of providers: our pooling and the implementations that it is measured against."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

import gcp_kernels

from .cases import Pool, reference_pool


def always() -> str | None:
    return None


@dataclass(frozen=True)
class Provider:
    """One implementation of iSQRT-COV pooling with the upper triangle as output.

    ``build(n_iter)`` gives a function (B, C, H, W) -> (B, C(C+1)/2). ``available()`` is None when it can be
    built here, else the reason why not. ``compiles`` marks a provider whose first pass on a shape builds code
    for that shape: it takes long, and its memory must not be counted as the pass's own.
    """

    name: str
    summary: str
    build: Callable[[int], Pool]
    available: Callable[[], str | None] = always
    compiles: bool = False


def build_torch_backend(n_iter: int) -> Pool:
    return lambda features: gcp_kernels.fused_gcp(features, n_iter=n_iter, backend="torch")


def build_compiled(n_iter: int) -> Pool:
    # Left alone, the second shape would be compiled for any size: slower than what a training run gets.
    return torch.compile(reference_pool(n_iter), dynamic=False)


def pytorchcv_missing() -> str | None:
    return None if importlib.util.find_spec("pytorchcv") else "pytorchcv not installed"


def build_pytorchcv(n_iter: int) -> Pool:
    layer = importlib.import_module("pytorchcv.models.isqrtcovresnet").iSQRTCOVPool(num_iter=n_iter)
    # That layer's vectors have a trailing axis of length one.
    return lambda features: layer(features).squeeze(-1)


OURS = Provider("fused_gcp[torch]", "gcp_kernels.fused_gcp, torch backend", build_torch_backend)
PROVIDERS = (
    OURS,
    Provider("pytorchcv", "pytorchcv's iSQRTCOVPool, loop-free eager", build_pytorchcv, pytorchcv_missing),
    Provider("autograd", "gcp_kernels.reference under plain autograd, eager", reference_pool),
    Provider("compile", "torch.compile of gcp_kernels.reference", build_compiled, compiles=True),
)


def by_name(name: str) -> Provider:
    for provider in PROVIDERS:
        if provider.name == name:
            return provider
    raise ValueError(f"no provider {name!r}; there are {', '.join(provider.name for provider in PROVIDERS)}")
