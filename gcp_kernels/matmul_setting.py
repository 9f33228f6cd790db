"""torch's global settings for float32 matrix products, held at one value while our threads need it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class MatmulSetting:
    """One of torch's ``fp32_precision`` settings.

    The setting is global, and autograd runs one thread per device, so several threads may be inside :meth:`hold`. Those
    that want the same value share it. One that wants another value waits. The first to enter saves the user's value,
    and the last to leave restores it. In the meantime, products of other code in other threads use the held value.
    """

    def __init__(self, setting: Any) -> None:
        self._setting = setting
        self._changed = threading.Condition()
        self._holders = 0
        self._held = ""
        self._users_value = ""

    @property
    def users_value(self) -> str:
        """The value that the user has set, whatever is held at the moment."""
        with self._changed:
            return self._users_value if self._holders else str(self._setting.fp32_precision)

    @contextmanager
    def hold(self, value: str) -> Iterator[None]:
        """Make a context in which float32 products are computed as ``value``, "ieee" or "tf32"."""
        with self._changed:
            self._changed.wait_for(lambda: not self._holders or self._held == value)
            if not self._holders:
                self._users_value, self._held = self._setting.fp32_precision, value
                self._set(value)
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                if not self._holders:
                    self._set(self._users_value)
                    self._changed.notify_all()

    def _set(self, value: str) -> None:
        current = self._setting.fp32_precision
        if current == value or (value == "ieee" and current == "none"):
            return
        # "none" means to inherit from the setting above it in torch's hierarchy, which may have the value already. An
        # inherited value must not become an explicit one, so "none" is tried first.
        self._setting.fp32_precision = "none"
        if self._setting.fp32_precision != value:
            self._setting.fp32_precision = value


# torch adds the first of these attributes to its module at run time, where mypy does not see it.
CPU = MatmulSetting(torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
GPU = MatmulSetting(torch.backends.cuda.matmul)
