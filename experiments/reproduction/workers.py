"""Runs at the same time, each in a process and on one thread of its own, which makes them the same however many go."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import torch

from ..datasets import ImageData, load_dataset
from .experiment import train_and_measure
from .runs import Job, Run
from .settings import Settings

_of_this_process: dict[str, Any] = {}


def load_images(settings: Settings) -> ImageData:
    """Load what ``settings`` name; raises what :func:`experiments.datasets.load_dataset` does."""
    data = load_dataset(settings.data, torch.device(settings.device), settings.image_size)
    train, validation, test = (part.first(settings.images) for part in (data.train, data.validation, data.test))
    return replace(data, train=train, validation=validation, test=test)


def finished(jobs: Sequence[Job], data: ImageData, settings: Settings, processes: int) -> Iterator[Run]:
    """Run the jobs, ``processes`` at a time, and yield each as it is finished.

    Raises:
        NonFiniteLossError: a training that must not diverge did.
        concurrent.futures.process.BrokenProcessPool: a process was killed, for want of memory for example.
    """
    if processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from (train_and_measure(job, data, settings) for job in jobs)
        finally:
            torch.set_num_threads(threads)
        return
    # Not forked: a process forked from one with threads, or with a GPU, may hang.
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(settings,)
    )
    try:
        futures = [executor.submit(_run, job) for job in jobs]
        yield from (future.result() for future in as_completed(futures))
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    executor.shutdown()


def _begin(settings: Settings) -> None:
    # An interruption from the keyboard goes to all processes; the first one speaks of it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    _of_this_process.update(data=load_images(settings), settings=settings)


def _run(job: Job) -> Run:
    return train_and_measure(job, **_of_this_process)
