"""The keys of the kernels in Triton's cache do not depend on what a process hashed or launched before."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernel_sources import SOURCES, module_name

pytest.importorskip("triton", reason="the kernels are Triton's")

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions, pytest.mark.borrowed]

ROOT = Path(__file__).parents[2]
# Interpreted kernels have no keys.
USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

# The key of each function, asked for in the order of argv: all of Triton's own library first, as after other kernels of
# the user; then ours by name, forwards or backwards, as launches would ask.
KEYS = """
import importlib, json, sys
from triton.language import standard
from triton.runtime.jit import JITFunction
library, order = sys.argv[1:3]
if library == "library first":
    for function in reversed(vars(standard).values()):
        getattr(function, "cache_key", None)
functions = {}
for name in sys.argv[3:]:
    module = importlib.import_module(name)
    for value in vars(module).values():
        if isinstance(value, JITFunction):
            functions[f"{value.__module__}.{value.__name__}"] = value
names = sorted(functions, reverse=order == "backwards")
print(json.dumps({name: functions[name].cache_key for name in names}))
"""
ORDERS = (("ours first", "forwards"), ("ours first", "backwards"), ("library first", "backwards"))


@pytest.mark.thorough
def test_keys_do_not_depend_on_the_order_of_hashing():
    modules = [module_name(path) for path in SOURCES]
    running = [
        # Names of modules in another order too, and another seed of Python's own hashes.
        subprocess.Popen(
            [sys.executable, "-c", KEYS, *order, *(modules if seed else reversed(modules))],
            cwd=ROOT, env={**USERS, "PYTHONHASHSEED": str(seed)}, stdout=subprocess.PIPE, text=True,
        )
        for seed, order in enumerate(ORDERS)
    ]  # fmt: skip
    first, *others = (json.loads(process.communicate(timeout=120)[0]) for process in running)
    assert {name.rpartition(".")[0] for name in first} >= set(modules)
    assert all(found == first for found in others)


def test_every_module_of_kernels_is_hashed_at_import():
    from gcp_kernels.ops.triton_device import cache_keys

    assert {module.__name__ for module in cache_keys.HASHED} == {module_name(path) for path in SOURCES}


LAUNCHED = """
import json
import triton.compiler
from triton.runtime.jit import JITFunction
from benchmarks.codegen import triton_kernels as static_kernels
from benchmarks.codegen.ahead_of_time import asked_for
from benchmarks.codegen.stub_driver import StubDriver, stubbed
from tests.support.kernel_sources import SOURCES, module_name
import importlib

class Asked(Exception):
    pass

def hash_of_launch(source, **_):
    raise Asked(source.hash())

compile_kernel = triton.compiler.compile
seen = {}
for case in static_kernels.shipped(90):
    if (case.form, case.source, case.backward) in seen:
        continue
    kernel = static_kernels.launched(case, 90)[0]
    function = getattr(importlib.import_module(kernel.module), kernel.name)
    function.device_caches.clear()
    triton.compiler.compile = hash_of_launch
    try:
        with stubbed(StubDriver(90)):
            static_kernels.launch(case)
    except Asked as asked:
        seen[case.form, case.source, case.backward] = asked.args[0] == asked_for(kernel)[0].hash()
    finally:
        triton.compiler.compile = compile_kernel
        function.device_caches.clear()
print(json.dumps([[*key, same] for key, same in seen.items()]))
"""


def test_what_is_compiled_beforehand_has_the_key_of_the_launch():
    """Else a cache that is brought to a GPU is of no use there, and nothing else would show it."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED],
        cwd=ROOT, env={**USERS, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {form for form, *_ in found} == {"on chip", "persistent", "phases", "covariance"}
    assert {backward for _, _, backward, _ in found} == {False, True}
    assert [row for row in found if not row[-1]] == []


def test_mypy_leaves_out_the_modules_of_kernels_and_no_others():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"# Kernels are written in Triton's language.*?module = \[(.*?)\]", text, re.DOTALL)
    assert set(re.findall(r'"([^"]+)"', listed)) == {
        *map(module_name, SOURCES),
        "gcp_kernels.ops.triton_device.cache_keys",
    }
