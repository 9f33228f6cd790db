"""The devices of this machine, and the backends that can run an operation there."""

import torch

from gcp_kernels.ops import backends

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def runnable(operation: str) -> list[tuple[str, str]]:
    """List (backend, device) pairs, each backend by its name, on which small float32 tensors can be processed."""
    return [
        (name, device)
        for device in DEVICES
        for name, module in backends.BACKENDS.items()
        if module.why_not(operation, torch.ones(1, 1 if operation == "triu_unvec" else 2, 2, device=device)) is None
    ]
