"""Several processes that train one network, as torchrun starts them: who does what, and what they tell each other."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

# A process that waits this long for another one fails, where otherwise it would wait for ever. Only a process that
# torchrun could not end is ever waited for so long; the longest honest wait is for a recording of the landscape.
TIMEOUT = timedelta(minutes=10)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among all: its ``rank``, how many there are, and which of this machine's it is."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Processes":
        """Read RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets; without them there is one process.

        Raises:
            ValueError: WORLD_SIZE is set and another one is missing, or one is no integer in its range.
        """
        if "WORLD_SIZE" not in environment:
            return cls()
        try:
            rank, count, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"RANK, WORLD_SIZE and LOCAL_RANK must be integers, as torchrun sets them, or all unset; got {error}"
            ) from None
        if not 0 <= local_rank <= rank < count:
            raise ValueError(f"LOCAL_RANK <= RANK < WORLD_SIZE must hold, got {local_rank}, {rank}, {count}")
        return cls(rank, count, local_rank)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: a GPU of its own where there are several processes.

        Raises:
            ValueError: several processes were to share one GPU, or there is none for this one.
        """
        if self.count == 1 or device.type != "cuda":
            return device
        if device.index:
            raise ValueError(f"of {self.count} processes each takes a GPU of its own: --device cuda, got {device}")
        available = torch.cuda.device_count()
        if self.local_rank >= available:
            raise ValueError(f"process {self.local_rank} of this machine has no GPU: torch sees {available}")
        return torch.device("cuda", self.local_rank)

    def share(self, images: Tensor) -> Tensor:
        """Take every ``count``-th element, from ``rank`` on; together the processes have every element once."""
        return images[self.rank :: self.count]

    def total(self, number: float, device: torch.device) -> float:
        """Sum over all processes, in float64."""
        if self.count == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return total.item()

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the buffers of the first, BatchNorm's statistics: all then test one network."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Value | None] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # every place has been filled

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Wrap in DistributedDataParallel where there are several processes: gradients become their mean."""
        if self.count == 1:
            return network
        # After its first step it would sort gradients once more into the pieces that are summed, and from three
        # processes on a sum depends on its piece: a resumed run, whose first step comes later, would end with other
        # last digits. It sorts only once if it looks for unused parameters, of which it then warns that there are none.
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        return nn.parallel.DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
        )


@contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """Let the processes talk inside: by NCCL on GPUs, by gloo on CPUs. All have arrived when it begins.

    A process that leaves it by an exception does not wait for the others; torchrun ends them.

    Raises:
        RuntimeError: torch was built without torch.distributed, or a process has not arrived in time.
    """
    if processes.count == 1:
        yield
        return
    if not distributed.is_available():
        raise RuntimeError(f"{processes.count} processes need a torch that was built with torch.distributed")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    processes.gather(None)
    yield
    distributed.destroy_process_group()
