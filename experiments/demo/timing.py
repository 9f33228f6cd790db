"""Time of one forward and backward pass of the pooling alone: ``fused_gcp`` beside eager implementations."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gcp_kernels import reference
from gcp_kernels.commands.relative_error import ERROR_LIMIT, relative_error
from gcp_kernels.commands.spread import Spread
from gcp_kernels.functional import fused_gcp
from gcp_kernels.nn.normalization import PUBLISHED_ITERATIONS

PYTORCHCV = "pytorchcv iSQRTCOVPool (loop-free eager)"
N_ITER = PUBLISHED_ITERATIONS
WARM_UP = 3

Pool = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PoolTime:
    """``milliseconds``: over rounds; None where ``error``, against float64, exceeds the limit.

    ``ratio``: of this one to ours, taken in each round; None where either is not timed.
    """

    name: str
    error: float
    milliseconds: Spread | None
    ratio: Spread | None


def fused(features: torch.Tensor) -> torch.Tensor:
    return fused_gcp(features, n_iter=N_ITER)


def plain_autograd(features: torch.Tensor) -> torch.Tensor:
    return reference.triu_vec(reference.isqrt_pool(features.flatten(2), N_ITER))


def pools() -> dict[str, Pool]:
    """Return what is compared, each under a name that says exactly what it is; ours first."""
    found: dict[str, Pool] = {
        "gcp_kernels.fused_gcp": fused,
        "gcp_kernels.reference.isqrt_pool + triu_vec, plain autograd (eager)": plain_autograd,
    }
    if importlib.util.find_spec("pytorchcv") is not None:  # the caller says so when it is absent
        layer = importlib.import_module("pytorchcv.models.isqrtcovresnet").iSQRTCOVPool(num_iter=N_ITER)
        # That layer's vectors have a trailing axis of length one.
        found[PYTORCHCV] = lambda features: layer(features).squeeze(-1)
    return found


def step(pool: Pool, features: torch.Tensor, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one forward and backward pass: the pooled vectors and the gradient with respect to ``features``."""
    pooled = pool(features)
    (gradient,) = torch.autograd.grad(pooled, features, upstream)
    return pooled.detach(), gradient


def time_pool(features: torch.Tensor, rounds: int) -> list[PoolTime]:
    """Measure the milliseconds of one pass of each implementation on ``features`` (B, C, H, W), ours first.

    Each is first compared, output and gradient, with the float64 reference on these very features. The rounds
    are interleaved, one pass of each implementation per round, so that a busy machine slows all of them
    alike.
    """
    features = features.detach().clone().requires_grad_()
    channels = features.shape[1]
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(len(features), channels * (channels + 1) // 2, generator=generator).to(features)
    exact = features.detach().double().requires_grad_()
    truth = step(plain_autograd, exact, upstream.double())

    errors: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    competitors = pools()
    for name, pool in competitors.items():
        found = step(pool, features, upstream)
        errors[name] = max(relative_error(result, true) for result, true in zip(found, truth, strict=True))
        if errors[name] <= ERROR_LIMIT:
            seconds[name] = []
    for turn in range(-WARM_UP, rounds):
        for name, measured in seconds.items():
            elapsed = seconds_of_step(competitors[name], features, upstream)
            if turn >= 0:
                measured.append(elapsed)
    ours = seconds.get(next(iter(competitors)))
    rows = []
    for name in competitors:
        own = seconds.get(name)
        milliseconds = Spread.of([1e3 * one for one in own]) if own else None
        ratio = Spread.of([one / other for one, other in zip(own, ours, strict=True)]) if own and ours else None
        rows.append(PoolTime(name, errors[name], milliseconds, ratio))
    return rows


def seconds_of_step(pool: Pool, features: torch.Tensor, upstream: torch.Tensor) -> float:
    """Measure the wall-clock seconds of one pass; the queue of a GPU is drained before and after."""
    wait = torch.cuda.synchronize if features.is_cuda else None
    if wait:
        wait(features.device)
    started = time.perf_counter()
    step(pool, features, upstream)
    if wait:
        wait(features.device)
    return time.perf_counter() - started
