"""Work that waits for a module: done whenever the module has been executed, whatever was done with it before."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from gcp_kernels.ops.when_imported import when_imported

FAILS_ONCE = """
import builtins
if not hasattr(builtins, "tried_here"):
    builtins.tried_here = True
    raise MemoryError
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Make a module that fails when it is first imported, and put everything back in the end."""
    (tmp_path / "waited_for_here.py").write_text(FAILS_ONCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "waited_for_here"
    sys.modules.pop("waited_for_here", None)
    del importlib.import_module("builtins").tried_here


def test_it_is_done_after_the_import_that_succeeds(module):
    done = []
    for number in (1, 2):
        when_imported(module, lambda number=number: done.append((number, module in sys.modules)))
    spec = importlib.util.find_spec(module)
    assert "MemoryError" in spec.loader.get_source(module)
    with pytest.raises(MemoryError):
        importlib.import_module(module)
    assert not done
    found = importlib.import_module(module)
    assert sorted(done) == [(1, True), (2, True)]
    assert found.__loader__ is found.__spec__.loader
    assert type(found.__loader__).__module__ != "gcp_kernels.ops.when_imported"
    importlib.reload(found)
    assert len(done) == 4
    when_imported(module, lambda: done.append("at once"))
    assert done[-1] == "at once"


def test_one_that_fails_is_a_warning(module):
    def fail():
        raise AttributeError("op_to_schema_info")

    when_imported(module, fail)
    with pytest.raises(MemoryError):
        importlib.import_module(module)
    with pytest.warns(UserWarning, match="could not register its operators with waited_for_here: .*op_to_schema_info"):
        importlib.import_module(module)
    assert module in sys.modules


def test_a_module_that_is_not_there_stays_so(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    when_imported("no_such_module_anywhere", lambda: None)
    assert importlib.util.find_spec("no_such_module_anywhere") is None
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        importlib.import_module("no_such_module_anywhere")


SCRIPT = """
import importlib, importlib.util, sys, gcp_kernels
assert "torch.utils.flop_counter" not in sys.modules and "torch.distributed.tensor" not in sys.modules
importlib.util.find_spec("torch.utils.flop_counter")
importlib.reload(gcp_kernels)
import torch, torch.distributed.tensor
from torch.utils.flop_counter import FlopCounterMode
importlib.reload(gcp_kernels)
with FlopCounterMode(display=False) as counter:
    gcp_kernels.fused_gcp(torch.randn(2, 3, 9))
print(counter.get_total_flops())
"""


def test_the_package_imports_neither_module_and_registers_with_both():
    command = [sys.executable, "-W", "error:gcp_kernels", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 2 * (12 * 3**3 + 3**2 * 9)
