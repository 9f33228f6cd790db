"""A few processes on this machine that form a group of torch.distributed, over gloo."""

import faulthandler
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch

# Processes of a group, and seconds after which one says where it stands and ends; it takes about ten.
PROCESSES = 2
DEADLINE = 120


def run_group(work: Callable[[int, Path], None], folder: Path) -> None:
    """Run ``work(rank, folder)`` in every process of a group. One that never ends is ended.

    ``work`` is a function of a module: the processes import it.
    """
    started = torch.multiprocessing.spawn(_member, args=(work, folder), nprocs=PROCESSES, join=False)
    end = time.monotonic() + 1.5 * DEADLINE
    try:
        while not started.join(timeout=1, grace_period=1):
            assert time.monotonic() < end, "a process has not ended"
    finally:
        for process in started.processes:
            process.kill()


def _member(rank: int, work: Callable[[int, Path], None], folder: Path) -> None:
    faulthandler.dump_traceback_later(DEADLINE, exit=True)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=DEADLINE / 2),
    )
    work(rank, folder)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # DistributedDataParallel keeps the group: its threads may abort an interpreter that comes to its end.
    os._exit(0)
