"""The Triton kernels run in a form of launch and with tiles that a test chooses, and are held against exact values.

Shapes decide the form of a launch, and shipped tiles are 64 elements a side; in the interpreter, matrices with many
such tiles take minutes. Forms are forced here, with small tiles, so that small matrices have many tiles, and launches
several programs, parts of a sum and strips.
"""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, reference
from gcp_kernels.ops.sides import POSITIONS
from gcp_kernels.ops.triton_device import backend, policy
from gcp_kernels.ops.triton_device.policy import Config, OnChip, Persistent, Phases, Tiling
from tests.support import oracle, tolerances
from tests.support.accuracy import upstream, value_and_gradient
from tests.support.scaled_covariance import exact_values, pool_by, unfused_values, value_and_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Not the same as being on a CPU: where launches are noted for a GPU, tests are skipped that it would skip.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FORMS = ("on_chip", "persistent", "phases")
# On the side of the positions: one program for each sample, and several.
POSITION_FORMS = ("positions", "positions_shared")

# Every block size another where it can be: (C, M) cut into tiles, tiles into slices, positions into strips.
TILINGS = (
    Tiling(16, block_k=16, block_m=64, warps=1),
    Tiling(32, block_k=16, block_m=32, warps=1),
    Tiling(64, block_k=32, block_m=128, warps=4),
)

# As shipped.
STREAMED = policy.HOPPER.backward[1]

runs_here = pytest.mark.skipif(
    backend.why_not("isqrt_pool", torch.ones(1, 2, 2, device=DEVICE)) is not None, reason="Triton cannot run here"
)
interpreted = pytest.mark.skipif(not INTERPRETED, reason="kernels are watched in the interpreter")
# numpy, which interprets, says what NaN and infinity do.
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


def tiling_of(c: int) -> Tiling:
    """Tiles that cut (C, C) matrices into 3 x 3, where they are not too large for it, or too small."""
    return next((tiling for tiling in TILINGS if c <= 3 * tiling.block), TILINGS[-1])


def choice_of(form: str, c: int, m: int, *, tiling: Tiling | None = None, programs: int = 2, parts: int = 3) -> Config:
    """Give a launch in ``form`` for (C, M) features, in 3 x 3 tiles if not said; the covariance in ``parts`` parts."""
    if form == "on_chip":
        block_c = max(16, 1 << (c - 1).bit_length())
        if not INTERPRETED and block_c > 64:
            pytest.skip("so many channels are on chip in the interpreter alone")
        return OnChip(block_c, 32, warps=4)
    if form in POSITION_FORMS:
        block_c = next((block for block in (16, 32) if c <= 3 * block), 64)
        block_m = max(16, 1 << (m - 1).bit_length())
        if not INTERPRETED and block_m > 64:
            pytest.skip("so many positions are on chip in the interpreter alone")
        return OnChip(block_c, block_m, warps=4, side=POSITIONS, shared=form == "positions_shared")
    tiling = tiling or tiling_of(c)
    if form == "persistent":
        return Persistent(tiling, programs)
    chunk = -(-m // (parts * tiling.block_m)) * tiling.block_m
    return Phases(tiling, splits=-(-m // chunk), chunk=chunk)


def force(monkeypatch: pytest.MonkeyPatch, forward: Config, backward: Config | None = None) -> None:
    """All launches of the Newton-Schulz kernels are as given, whatever the shape; see :func:`backward_of`."""
    chosen = backward or backward_of(forward)
    for operation in ("isqrt", "sqrt"):
        monkeypatch.setattr(policy, f"{operation}_forward", lambda *_: forward)
        monkeypatch.setattr(policy, f"{operation}_backward", lambda *_: chosen)


def backward_of(forward: Config) -> Config:
    """Give the launch backward that belongs to one forward: the same, but for 64 channels on chip on a GPU.

    Backward they spill up to 1,240 bytes of a thread's registers, more than is accepted of what is shipped, and were
    wrong on an H100; whether that is why is not known. No shape is launched so: it streams, here too.
    """
    refused = isinstance(forward, OnChip) and forward.side != POSITIONS and forward.block_c > 32
    return Persistent(STREAMED, programs=2) if refused and not INTERPRETED else forward


def on_device(tensor: Tensor) -> Tensor:
    """Give the same numbers where Triton runs, at the same strides and gaps, which ``Tensor.to`` would close."""
    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    placed = whole.to(DEVICE).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return torch._neg_view(placed) if tensor.is_neg() else placed


def assert_unchanged_by_strides(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Results in "high" of the same numbers at other strides: bit for bit in the interpreter.

    On a GPU strides decide how wide loads are, and so the order in which positions are added up: within the promise.
    """
    for one, other in zip(ours, expected, strict=True):
        if INTERPRETED:
            assert torch.equal(one, other)
        else:
            tolerances.assert_promise_kept(one, other.double(), "high", "at other strides")


def run(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient, computed where Triton runs; ``x`` keeps its strides."""
    leaf = on_device(x.detach()).requires_grad_()
    value = function(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, on_device(grad))
    return value.detach().cpu(), gradient.cpu()


def pool(n_iter: int = 5, precision: str | None = None, output: str = "triu") -> Callable[[Tensor], Tensor]:
    return lambda x: fused_gcp(x, n_iter=n_iter, precision=precision, output=output, backend="triton")


def root(n_iter: int = 5, precision: str | None = None) -> Callable[[Tensor], Tensor]:
    return lambda cov: newton_schulz_sqrt(cov, n_iter=n_iter, precision=precision, backend="triton")


def covariance(
    scale: Tensor | None = None, precision: str | None = None, output: str = "full"
) -> Callable[[Tensor], Tensor]:
    return lambda x: covariance_pool(x, scale=scale, precision=precision, output=output, backend="triton")


def check(what: str, ours: Tensor, unfused: Tensor, exact: Tensor, precision: str) -> None:
    """As accurate as unfused, and for float32 as promised."""
    tolerances.assert_as_accurate(ours, unfused, exact, what)
    if ours.dtype == torch.float32:
        tolerances.assert_promise_kept(ours, exact, precision, what)


def check_pooling(x: Tensor, n_iter: int, precision: str, output: str) -> None:
    """Value and gradient of fused_gcp, for a random upstream gradient."""
    b, c, _ = x.shape
    keep = oracle.triangle if output == "triu" else torch.Tensor.contiguous
    grad, grad_matrix = upstream(c, output, b, x.dtype)
    ours = value_and_gradient(pool(n_iter, precision, output), x.to(DEVICE), grad.to(DEVICE))
    unfused = tolerances.unfused(lambda x: keep(reference.isqrt_pool(x, n_iter)), x, grad, precision)
    check("value", ours[0], unfused[0], keep(oracle.isqrt_pool(x, n_iter)), precision)
    check("gradient", ours[1], unfused[1], oracle.isqrt_pool_grad(x, n_iter, grad_matrix), precision)


def check_root(cov: Tensor, n_iter: int, precision: str) -> None:
    """Value and gradient of newton_schulz_sqrt, for a random upstream gradient; both symmetric to the last bit."""
    grad = torch.randn(cov.shape).to(cov.dtype)
    ours = value_and_gradient(root(n_iter, precision), cov.to(DEVICE), grad.to(DEVICE))
    unfused = tolerances.unfused(lambda cov: reference.newton_schulz_sqrt(cov, n_iter), cov, grad, precision)
    check("value", ours[0], unfused[0], oracle.newton_schulz_sqrt(cov, n_iter), precision)
    check("gradient", ours[1], unfused[1], oracle.newton_schulz_sqrt_grad(cov, n_iter, grad), precision)
    for matrix in ours:
        assert torch.equal(matrix, matrix.mT)


def check_covariance(x: Tensor, scale: Tensor | None, precision: str, output: str) -> None:
    """Value and gradients of covariance_pool, for a random upstream gradient."""
    b, c, _ = x.shape
    grad, grad_matrix = upstream(c, output, b, x.dtype)
    if scale is None:
        keep = oracle.triangle if output == "triu" else torch.Tensor.contiguous
        ours = value_and_gradient(covariance(None, precision, output), x.to(DEVICE), grad.to(DEVICE))
        unfused = tolerances.unfused(lambda x: keep(reference.covariance_pool(x)), x, grad, precision)
        exact = keep(oracle.covariance_pool(x)), oracle.covariance_pool_grad(x, grad_matrix)
    else:
        ours = value_and_gradients(pool_by("triton", output, precision), *(t.to(DEVICE) for t in (x, scale, grad)))
        unfused = unfused_values(x, scale, grad, output, precision)
        exact = exact_values(x, scale, grad_matrix, output)
    for what, actual, theirs, truth in zip(("value", "gradient", "scale gradient"), ours, unfused, exact, strict=False):
        # A float64 scale gets a gradient of float32 sums.
        rounded = actual.float() if actual.dtype == torch.float64 else actual
        check(what, rounded, theirs.to(rounded.dtype), truth, precision)


def odd(*shape: int) -> Tensor:
    """Random numbers that are neither adjacent nor at the start or the end of their storage."""
    base = torch.randn(*(2 * size + 3 for size in shape))
    return base[tuple(slice(1, 1 + 2 * size, 2) for size in shape)]
