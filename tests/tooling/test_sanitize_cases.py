"""The list of checks that launch every kernel: on any GPU none that exists is missing, and each says what it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="half of the kernels are Triton's")

from benchmarks.codegen import static_extension
from benchmarks.sanitize.checks import (
    ARITHMETIC,
    MANY_POSITIONS,
    SAMPLES,
    Check,
    FunctionCheck,
    checks,
    cuda_checks,
)
from benchmarks.sanitize.outcome import matrices_of, outcome_of
from tests.support.extension import built

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
CPU = torch.device("cpu")

# Kernels with what their launch choice is made of, without what the shape of the samples adds: first those that the
# checks of an architecture ask Triton for, then those of every shipped configuration.
CONFIGURED = """
import json, sys
from benchmarks.sanitize.checks import triton_launches
from benchmarks.codegen.triton_kernels import launched, shipped
arch = int(sys.argv[1])
CHOSEN = {"no", "centre", "matrices", "grad", "scales", "TANGENTS", "PLANES", "warps", "stages"}
CHOSEN |= {"BLOCK", "BLOCK_C", "BLOCK_K", "BLOCK_M"}

def kernels(cases):
    for kernel in (kernel for case in cases for kernel in launched(case, arch)):
        words = [word for word in kernel.configuration.split() if word.partition("=")[0] in CHOSEN]
        yield " ".join((kernel.form, kernel.direction, kernel.name, kernel.precision, *words))

of_checks = sorted(set(kernels(check.case for check in triton_launches(arch))))
print(json.dumps([of_checks, sorted(set(kernels(shipped(arch))))]))
"""
# Shared memory of a block: GPUs for games, A100, H100.
LIMITS_KIB = (99, 163, 227)
DATA_CENTRE_KIB = (163, 227)


@pytest.mark.thorough
@pytest.mark.parametrize("arch", [80, 90, 120])
def test_every_shipped_configuration_of_triton_is_launched(arch):
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED, str(arch)], cwd=ROOT, env=USERS, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    of_checks, of_configurations = map(set, json.loads(done.stdout))
    assert len(of_configurations) > 40
    assert of_configurations <= of_checks


def form_of(matrices: tuple[int, int], side: int) -> str | None:
    """Find the form of a pooling kernel by its resident matrices, and all; ``None`` where a sample does not fit."""
    resident, count = matrices
    if not resident:
        return None
    if resident < count:
        return "streamed"
    return next(form for form, most in {"small": 64, "middle": 128, "resident": 256}.items() if side <= most)


def launched_by(check: FunctionCheck, limit_kib: int) -> set[tuple[str, str]]:
    """List the CUDA kernels of a check, forward and backward, each by its name and variant as in static_extension."""
    if check.operation.startswith("triu"):
        return {(f"{name}_kernel", check.dtype) for name in ("triu_vec", "triu_unvec")}
    iterates = check.operation == "isqrt_pool"
    # A covariance has in both passes the matrices of a forward pass of one plane.
    sized = check if iterates else FunctionCheck("cuda", "isqrt_pool", check.c, "fast", check.dtype, m=MANY_POSITIONS)
    name = "isqrt_pool_positions" if check.on_positions else check.operation
    found = set()
    for way in ("forward", "backward"):
        matrices = matrices_of(sized, way == "backward" and iterates, limit_kib << 10)
        form = form_of(matrices, check.m if check.on_positions else check.c)
        if form is None:
            return set()
        found.add((f"{name}_{way}_kernel", f"{form} {check.precision}" if iterates else form))
    return found


@built
def test_every_cuda_kernel_in_the_extension_is_launched_on_some_gpu():
    mangled = re.findall(rb"_ZN11gcp_kernels\d+\w+_kernelI\w+", static_extension.binary().read_bytes())
    compiled = {static_extension.described(name.decode()) for name in set(mangled)}
    launched = {kernel for limit in LIMITS_KIB for check in cuda_checks() for kernel in launched_by(check, limit)}
    assert launched == compiled
    assert len(compiled) == 46


@built
@pytest.mark.parametrize("limit_kib", LIMITS_KIB)
def test_every_cuda_kernel_that_a_gpu_can_meet_is_launched_there(limit_kib):
    found = {kernel for check in cuda_checks() for kernel in launched_by(check, limit_kib)}
    sizes = [(c, MANY_POSITIONS) for c in range(1, 257)] + [(512, m) for m in range(1, 257)]
    every = [
        FunctionCheck("cuda", operation, c, precision, dtype, m=m)
        for operation in ("isqrt_pool", "covariance_pool")
        for c, m in sizes
        if operation == "isqrt_pool" or c <= 256
        for precision, dtype in ARITHMETIC.items()
    ]
    reachable = {kernel for check in every for kernel in launched_by(check, limit_kib)}
    assert reachable <= found
    assert len(reachable) > 30


@built
@pytest.mark.parametrize("limit_kib", DATA_CENTRE_KIB)
def test_every_cuda_kernel_reads_elements_of_every_type(limit_kib):
    """What is read and written is chosen in the kernel, so each holds the code for three types."""
    pooling = [check for check in cuda_checks() if check.operation.endswith("pool")]
    read = {(*kernel, check.dtype) for check in pooling for kernel in launched_by(check, limit_kib)}
    types = ("float16", "bfloat16", "float32")
    assert read == {(name, variant, dtype) for name, variant, _ in read for dtype in types}


def all_checks() -> list[Check]:
    return checks(("cuda", "triton"), 90)


def test_no_two_checks_are_the_same_and_each_says_its_shape():
    found = all_checks()
    assert len(set(map(str, found))) == len(found)
    rows = {(one.kernel, one.form, one.dtype, one.precision, one.shape) for one in found}
    assert len(rows) == len(found)
    shapes = {one.shape for one in found}
    assert {f"{SAMPLES}x16x49", "(SMs+1)x256x300", "(8SMs+1)x96x49", f"{SAMPLES}x100x100", f"{SAMPLES}x5050"} <= shapes


def test_a_family_is_of_one_backend_and_precision_and_begins_with_its_simplest_check():
    families: dict[str, list[Check]] = {}
    for one in all_checks():
        families.setdefault(one.family, []).append(one)
    assert len(families) == 5 + 6 + 16
    for name, members in families.items():
        assert {one.backend for one in members} == {name.split()[0]}
        assert len({one.precision for one in members}) == (2 if "triangle" in name else 1)
        simplest = min(members, key=lambda one: one.difficulty)
        assert "channels_last" not in simplest.form
        assert "wraps" not in simplest.form
        assert simplest.difficulty[1] <= 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="here kernels are not interpreted")
@pytest.mark.parametrize(
    "text",
    ["isqrt_pool C=32 bfloat16", "on chip forward of features C=16 float32", "on chip backward of features C=16"],
)
def test_work_is_made_on_the_cpu_and_launched_where_it_is_told(text):
    """Twice, since every launch fills its results again; and the exact values are of float64."""
    check = next(one for one in checks(("triton",), 90) if text in str(one))
    work = check.work(CPU)
    first = [one.clone() for one in work.launch()]
    for found, again, exact in zip(first, work.launch(), work.exact(), strict=True):
        assert torch.equal(found, again)
        assert found.shape == exact.shape
        assert exact.dtype == torch.float64
        assert exact.device == CPU
    errors = work.errors(first)
    assert errors == list(outcome_of(check, CPU).errors)
    assert all(0 < error <= check.limit for error in errors)
