"""The keys of the kernels in Triton's cache do not depend on what a process hashed or launched before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_sources import SOURCES, module_name

pytest.importorskip("triton", reason="the kernels are Triton's")

ROOT = Path(__file__).parent.parent
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
