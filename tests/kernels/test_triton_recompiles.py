"""How often Triton compiles a kernel: once, whatever the batch and the number of iterations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions]

ROOT = Path(__file__).parents[2]
COMPILING = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

# Asked of Triton's hook before a compilation, in a process where kernels are not interpreted; nothing is compiled.
PROGRAM = """
import collections, json, sys, torch
from dataclasses import replace
from benchmarks.codegen.triton_kernels import KernelCase, launched
from gcp_kernels.ops.sides import POSITIONS
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import OnChip, Tiling

arch = Architecture(90, 132)
tiling = Tiling(64, block_k=32, block_m=16, warps=4)
FORMS = {
    "on chip": lambda b, m: OnChip(64, 32, warps=4),
    "positions": lambda b, m: OnChip(64, 64, warps=4, side=POSITIONS, shared=True),
    "persistent": lambda b, m: policy.persistent(b, 64, tiling, arch),
    "persistent, by blocks of positions": lambda b, m: policy.persistent(b, 64, tiling, arch, positions=m),
    "phases, by blocks of positions": lambda b, m: policy.by_phase(b, 64, m, tiling, arch, POSITIONS),
    "phases": lambda b, m: policy.by_phase(b, 64, m, tiling, arch),
    "covariance": lambda b, m: policy.COVARIANCE,
}
BY_BLOCKS = [form for form in FORMS if form.endswith("by blocks of positions")]
SOURCES = {"covariance": ["scaled features"], "positions": [], **{form: [] for form in BY_BLOCKS}}
found = {}
for form, choice in FORMS.items():
    for source in ("features", *SOURCES.get(form, ["matrix"])):
        for backward in (False, True):
            asked = collections.defaultdict(set)
            for b, n_iter, m in json.loads(sys.argv[1]):
                m = 1 if source == "matrix" else m
                size = {"source": source, "b": b, "m": m, "n_iter": n_iter, "triu": source != "matrix"}
                for kernel in launched(KernelCase(choice(b, m), backward, "high", torch.float32, 64, **size), 90):
                    # One that is launched twice in a pass, for two purposes.
                    name = kernel.name + (", no panels" if "no panels" in kernel.configuration else "")
                    asked[name].add(kernel.specialization)
            for name, specializations in asked.items():
                found[f"{form} {'backward' if backward else 'forward'} of {source}: {name}"] = len(specializations)
print(json.dumps(found))
"""


def compilations(passes: list[tuple[int, int, int]]) -> dict[str, int]:
    """By pass and kernel, for (batch, iterations, positions)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(passes)], cwd=ROOT, env=COMPILING, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    assert len(found) > 30
    return found


def more_than_one(found: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in found.items() if count != 1}


def test_a_kernel_is_compiled_once_for_all_batches_and_iterations():
    """Triton would specialise on 1 and on multiples of 16; with few samples a covariance is summed in more parts.

    And for all positions of as many blocks of 64, where these are what is iterated.
    """
    passes = [(b, 5, 6272) for b in (1, 2, 3, 7, 15, 16, 17, 32, 64, 1000)]
    passes += [(4, n_iter, 6272) for n_iter in (1, 2, 3, 16, 17)]
    passes += [(4, 5, m) for m in (6224, 6256)]
    assert more_than_one(compilations(passes)) == {}


def test_a_kernel_is_compiled_once_for_positions_of_one_alignment():
    """Of multiples of 4, which loads of float32 take at once, and not of 16, on which strides are specialised."""
    found = more_than_one(compilations([(8, 5, m) for m in (196, 100, 36, 6076)]))
    assert all("by blocks of positions" in name for name in found), found


def test_what_is_specialised_on_shows():
    """Positions of another alignment are another kernel, wherever features are read."""
    twice = more_than_one(compilations([(8, 5, 196), (8, 5, 49)]))
    assert set(twice.values()) == {2}
    assert {name.partition(" of ")[0].rpartition(" ")[0] for name in twice if "by blocks" not in name} == {
        "on chip", "positions", "persistent", "phases", "covariance",
    }  # fmt: skip
    assert not any("matrix" in name for name in twice)
