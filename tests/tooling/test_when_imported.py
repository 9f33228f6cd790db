"""Work that waits for a module: done once, after the module is there, and with nothing left behind."""

import importlib
import sys

import pytest

from gcp_kernels.ops.when_imported import when_imported


def test_the_action_follows_the_first_import(tmp_path, monkeypatch):
    (tmp_path / "waited_for_here.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders, done = list(sys.meta_path), []
    for number in (1, 2):
        when_imported("waited_for_here", lambda number=number: done.append((number, "waited_for_here" in sys.modules)))
    assert not done
    module = importlib.import_module("waited_for_here")
    assert sorted(done) == [(1, True), (2, True)]
    assert sys.meta_path == finders
    assert module.__loader__ is module.__spec__.loader
    assert type(module.__loader__).__module__ != "gcp_kernels.ops.when_imported"
    importlib.reload(module)
    assert len(done) == 2
    when_imported("waited_for_here", lambda: done.append("at once"))
    assert done[-1] == "at once"


def test_a_module_that_is_not_there_stays_so():
    finders = list(sys.meta_path)
    when_imported("no_such_module_anywhere", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        importlib.import_module("no_such_module_anywhere")
    assert sys.meta_path == finders
