"""Pooling kernels under emulation (cuda_emulation) held against exact values in float64."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
import torch

from gcp_kernels import reference
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from tests.support import inputs, oracle, tolerances
from tests.support.cuda_emulation.pooling import CSRC, SHARED_LIMITS, TENSOR_CORES, Emulation, compiled, guarded_copy

FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def why_not() -> str | None:
    """Say what the emulation lacks here."""
    if shutil.which("g++") is None:
        return "needs g++"
    if not sys.platform.startswith("linux"):
        return "needs Linux (fibres, protected pages)"
    return None if CSRC.is_dir() else "needs the source tree"


needs_emulation = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Emulation:
    """Compile the kernels as they are once for all tests of a run: where it has several processes, in the first."""
    import fcntl  # conftest.py imports this module on systems without it, too

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "pooling_emulation"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "made"
        if not made.exists():
            made.symlink_to(compiled(CSRC, folder, "-Wall", "-Wextra", "-Werror"))
    return Emulation(made.resolve())


@pytest.fixture
def emulation(library) -> Emulation:
    library.shared_limit, library.backwards, library.grid = SHARED_LIMITS["sm_90"], False, 2
    library.tensor_core = TENSOR_CORES["sm_80"]  # the least accurate
    return library


def upstream(x: torch.Tensor, output: str) -> torch.Tensor:
    b, c, _ = x.shape
    return torch.randn((b, c * (c + 1) // 2) if output == "triu" else (b, c, c), dtype=FLOAT64).to(x.dtype)


def check(what, ours, unfused, exact, precision) -> None:
    tolerances.assert_promise_kept(ours, exact, precision, what)
    if exact.shape[0] and tolerances.relative_error(unfused, exact) > 0:
        tolerances.assert_as_accurate(ours, unfused, exact, what)


def check_pooling(emulation, x, n_iter, precision, output, grad=None, side=CHANNELS) -> None:
    triu = output == "triu"
    x = guarded_copy(x, x.stride())
    before = x.clone()
    grad = upstream(x, output) if grad is None else grad

    def pool(features):
        pooled = reference.isqrt_pool(features, n_iter)
        return reference.triu_vec(pooled) if triu else pooled

    value, gradient = tolerances.unfused(pool, x, grad, precision)
    exact = oracle.isqrt_pool(x.double(), n_iter)
    full = oracle.triangle_grad(grad.double(), x.shape[1]) if triu else grad.double()
    pooled, centre, trace = emulation.isqrt_pool(x, n_iter, triu, precision, side)
    check("pooled", pooled, value, oracle.triangle(exact) if triu else exact, precision)
    grad_x = emulation.isqrt_pool_backward(grad, x, centre, trace, n_iter, triu, precision, side)
    check("gradient", grad_x, gradient, oracle.isqrt_pool_grad(x.double(), n_iter, full), precision)
    assert torch.equal(x, before), "the input was changed"


def check_strided_gradients(emulation, x, precision) -> None:
    b, c, _ = x.shape
    elements = c * (c + 1) // 2
    check_pooling(emulation, x, 3, precision, "triu", torch.randn(b, 1).to(x.dtype).expand(b, elements))
    check_pooling(emulation, x, 3, precision, "triu", guarded_copy(upstream(x, "triu"), (2 * elements, 2)))
    check_pooling(emulation, x, 3, precision, "full", guarded_copy(upstream(x, "full"), (2 * c * c, 2, 2 * c)))


def check_covariance(emulation, x, scale, precision, output) -> None:
    triu, c = output == "triu", x.shape[1]
    x = guarded_copy(x, x.stride())
    exact_scale = None if scale is None else scale.double()
    grad = upstream(x, output)
    full = oracle.triangle_grad(grad.double(), c) if triu else grad.double()
    exact = oracle.covariance_pool(x.double(), exact_scale)
    pooled, centre = emulation.covariance_pool(x, scale, triu, precision)
    tolerances.assert_promise_kept(pooled, oracle.triangle(exact) if triu else exact, precision, "covariance")
    grad_x, grad_scale = emulation.covariance_pool_backward(grad, x, scale, centre, triu)
    expected = oracle.covariance_pool_grad(x.double(), full, exact_scale)
    tolerances.assert_promise_kept(grad_x, expected, "high", "gradient")
    if scale is not None:
        expected = oracle.covariance_pool_scale_grad(x.double(), full, exact_scale)
        # As good as float32 sums of terms that cancel; the centre is all that the half-precision inputs leave inexact.
        tolerances.assert_promise_kept(grad_scale, expected, "high", "gradient of the scale")


def check_triangle(emulation, c, m, dtype) -> None:
    """Gradients of a triangle, each with one number far above all others, against those of the same as a matrix.

    A largest magnitude that is not that number's would have the direction overflow.
    """
    x = inputs.relu_features(6, c, m, FLOAT32)
    _, centre, trace = emulation.isqrt_pool(x, 2, True, "fast", POSITIONS)
    grad = (1e-3 * upstream(x, "triu")).to(dtype)
    count = grad.shape[1]
    for sample, place in enumerate((1, count - 2, count // 2, count // 2 + 1, count - 2, 1)):
        grad[sample, place] = 3e4
    matrix = torch.zeros(6, c, c, dtype=dtype)
    rows, columns = torch.triu_indices(c, c)
    matrix[:, rows, columns] = grad
    grad = guarded_copy(grad, grad.stride())
    results = [
        emulation.isqrt_pool_backward(one, x, centre, trace, 2, one is grad, "fast", POSITIONS)
        for one in (grad, matrix)
    ]
    assert results[0].isfinite().all()
    assert torch.equal(*results)
