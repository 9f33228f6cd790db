"""Mixed precision of a training step: autocast, and for float16 a scale that keeps small gradients from vanishing."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer

from gcp_kernels.validation import check_choice

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MixedPrecision:
    """Autocast to bfloat16 or float16, or neither; parameters, their gradients and the optimiser stay float32.

    Float16 has a gradient scaler: a step whose scaled gradients overflow is left out, and the scale is lowered. It is
    for GPUs only, as bfloat16 is for both: autocast on a CPU gains nothing from float16.

    Args:
        amp: "bf16", "fp16" or ``None``.
        device: of the network.

    Raises:
        ValueError: another ``amp``, or "fp16" on a CPU.
    """

    def __init__(self, amp: str | None, device: torch.device) -> None:
        check_choice("amp", amp, (None, *AMP_DTYPES))
        if amp == "fp16" and device.type != "cuda":
            raise ValueError(f"amp must be 'bf16' or None on a {device.type} device, got 'fp16', which needs a GPU")
        self._dtype = None if amp is None else AMP_DTYPES[amp]
        self._device = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> AbstractContextManager[object]:
        """Enter autocast, for forward passes."""
        return nullcontext() if self._dtype is None else torch.autocast(self._device, dtype=self._dtype)

    def step(self, loss: Tensor, optimizer: Optimizer) -> None:
        """Run the backward pass and the step of the optimiser."""
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    @contextmanager
    def steps_may_be_left_out(self) -> Iterator[None]:
        """Silence torch where a schedule steps before the optimiser, whose first step was left out."""
        with warnings.catch_warnings() if self.scaler.is_enabled() else nullcontext():
            if self.scaler.is_enabled():
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            yield


FULL_PRECISION = MixedPrecision(None, torch.device("cpu"))
