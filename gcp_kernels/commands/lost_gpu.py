"""Errors of a GPU that stay with the process, as an illegal access does: all that comes later would seem to fail."""

import torch


def why_lost(device: torch.device | None = None) -> str | None:
    """Say why this process can use the GPU no more; None if it can, or never has. Waits for the GPU."""
    if not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return str(error)
    return None
