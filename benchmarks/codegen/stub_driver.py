"""A stand-in for Triton's driver: kernels are specialised and launched as on a GPU, and nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver


class StubDriver:
    """A device of compute capability ``capability`` on which every launch is counted and does nothing.

    Its index is the capability, so that what Triton keeps for a device is kept apart for every capability, and apart
    from that of a real GPU. It stands for the part of Triton's driver that compiling and launching asks of it.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.launches = 0
        self.utils = SimpleNamespace(load_binary=self._load_binary, get_device_properties=self._device_properties)

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            self.launches += 1

        return launch

    @staticmethod
    def _load_binary(name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """Give module, function, registers, spills, and threads that a block may have."""
        return 0, 0, 0, 0, 1024

    @staticmethod
    def _device_properties(device: int) -> dict[str, int]:
        return {"max_shared_mem": 2**20, "multiprocessor_count": 132, "warpSize": 32}


@contextmanager
def stubbed(stub: StubDriver) -> Iterator[StubDriver]:
    """Inside the block Triton's driver is ``stub``."""
    # No public name gives the driver in use without looking for a GPU first.
    before = driver._active
    driver.set_active(stub)
    try:
        yield stub
    finally:
        driver.set_active(before)
