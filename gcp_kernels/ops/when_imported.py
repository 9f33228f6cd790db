"""Do something when a module of torch comes into the process, without importing it for that."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def when_imported(name: str, action: Callable[[], None]) -> None:
    """Call ``action`` once the module ``name`` is there: now, or when somebody has imported it.

    So nobody waits for modules that a network may never use.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder(MetaPathFinder):
    """Finds one module as the other finders do, and makes its loader call the action in the end."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name, self._action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            _act_after(spec.loader, self._action)
        return spec


def _act_after(loader: Loader, action: Callable[[], None]) -> None:
    execute = loader.exec_module

    def execute_and_act(module: ModuleType) -> None:
        execute(module)
        action()

    loader.exec_module = execute_and_act  # type: ignore[method-assign]
