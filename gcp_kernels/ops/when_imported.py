"""Do something when a module of torch comes into the process, without importing it for that."""

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` whenever the module ``name`` has been executed: now if it is there, and when it is imported.

    So nobody waits for modules that a network may never use. An action that fails is a warning: the module itself is as
    good as without us.
    """
    if name in sys.modules:
        _try(name, action)
    sys.meta_path.insert(0, _Finder(name, action))


def _try(name: str, action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:  # of a torch that has changed
        warnings.warn(f"gcp_kernels could not register its operators with {name}: {error!r}", stacklevel=2)


class _Finder(MetaPathFinder):
    """Finds one module as the finders after it do. It stays: a module may be looked for, fail, or be reloaded."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name, self._action = name, action
        self._here = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name or getattr(self._here, "looks", False):
            return None
        self._here.looks = True
        try:
            spec = _among_the_others(fullname, path, target)
        finally:
            self._here.looks = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, fullname, self._action)
        return spec


def _among_the_others(fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    """Ask all finders; the one that asks passes itself over."""
    for finder in sys.meta_path:
        look = getattr(finder, "find_spec", None)
        spec = look and look(fullname, path, target)
        if spec is not None:
            return spec
    return None


class _Loader(Loader):
    """Loads a module by its own loader, to which it leaves the module, and acts then."""

    def __init__(self, loader: Loader, name: str, action: Callable[[], None]) -> None:
        self._loader, self._name, self._action = loader, name, action

    def __getattr__(self, attribute: str) -> Any:
        """Give what else a loader has, its source for instance, to those that only look."""
        return getattr(self._loader, attribute)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _try(self._name, self._action)
