"""The Triton backend: its name is reserved, and this version has no Triton kernel yet."""

import torch


def why_not(operation: str, tensor: torch.Tensor) -> str | None:
    """Why this backend cannot run ``operation`` on ``tensor``; ``None`` where it can."""
    return f"this version of gcp_kernels has no Triton kernel for {operation}"
