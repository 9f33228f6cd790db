"""What tests force on chip on a GPU is compiled without one, and held to what is accepted of what is shipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.thorough]

ROOT = Path(__file__).parents[2]
# Both directions of the forms on chip of test_triton_kernels.py and test_triton_positions.py, in the largest tiles.
COMPILE = """
import json
import sys

import torch

from benchmarks.codegen import ahead_of_time, gate, static, triton_kernels
from tests.support import triton_forms as forms

forms.INTERPRETED = False
backward_of = forms.backward_of if sys.argv[1] == "as forced" else lambda forward: forward
if __name__ == "__main__":
    if reason := static.why_not():
        print(json.dumps({"reason": reason}))
        sys.exit()
    kernels = []
    for form, c, m in json.loads(sys.argv[2]):
        forward = forms.choice_of(form, c, m)
        for backward, choice in ((False, forward), (True, backward_of(forward))):
            for precision, dtype in (("fast", torch.float16), ("high", torch.float32)):
                case = triton_kernels.KernelCase(choice, backward, precision, dtype, c, m=m)
                kernels += [kernel for kernel in triton_kernels.launched(case, 90) if "isqrt" in kernel.name]
    found = {}
    for kernel, figures in zip(kernels, ahead_of_time.compile_all(kernels, 2), strict=True):
        found[f"{kernel.name} {kernel.configuration}"] = gate.problems(90, figures)
    print(json.dumps(found))
"""
FORCED = (("on_chip", 48, 49), ("on_chip", 32, 49), ("positions", 64, 49), ("positions_shared", 64, 20))


def problems(how, shapes):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, how, json.dumps(shapes)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "reason" in found:
        pytest.skip(found["reason"])
    return found


def test_what_is_forced_on_chip_is_accepted():
    found = problems("as forced", FORCED)
    assert len(found) >= 2 * len(FORCED)
    assert not any(found.values()), {kernel: said for kernel, said in found.items() if said}


def test_64_channels_on_chip_backward_are_not():
    """The reason why they are not forced, which a later compiler may take away."""
    found = problems("whatever it is", FORCED[:1])
    spilling = {kernel: said for kernel, said in found.items() if said}
    assert spilling
    assert all("backward" in kernel and "it spills" in said[0] for kernel, said in spilling.items())
