"""Kernels for every kind of input, as far as Triton's own compiler: the interpreter takes what that refuses."""

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

PROGRAM = """
import json
from dataclasses import replace
from benchmarks.codegen.ahead_of_time import check
from benchmarks.codegen.triton_kernels import launched, shipped, variants

kernels, failures = {}, {}
# Every other configuration: kinds of input make other kernels of other functions, not of other tiles.
for case in list(shipped(90))[::2]:
    few = replace(case, variant="7 x 7", m=1 if case.source == "matrix" else 49)
    fews = () if case.on_positions else (few, replace(few, variant="7 x 7 channels last", channels_last=True))
    for variant in (*variants(case), *fews):
        for kernel in launched(variant, 90):
            kernels.setdefault(kernel.specialization, kernel)
for kernel in kernels.values():
    try:
        check(kernel)
    except Exception as error:
        failures[f"{kernel.variant}: {kernel.module} {kernel.name} {kernel.configuration}"] = str(error)[-400:]
print(json.dumps([sorted({kernel.variant for kernel in kernels.values()}), failures]))
"""


@pytest.mark.thorough
def test_kernels_of_every_kind_of_input_compile():
    """Channels last once did not: a stride of 1 is a constant for Triton, and is no number for all that takes one."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=COMPILING, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen, failures = json.loads(done.stdout)
    assert {"channels last", "wide", "matrix", "odd channels", "7 x 7", "float16"} <= set(seen)
    assert failures == {}
