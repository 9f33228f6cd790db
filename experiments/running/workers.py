"""Runs at the same time, each in a process and on one thread of its own, which makes them the same however many go."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch

Key = TypeVar("Key")
Result = TypeVar("Result")


class Workers:
    """Processes that call tasks, a context; one that has begun stays for the tasks that are given later.

    Args:
        processes: how many at a time; 1 for none but this one, which then has one thread for as long.
    """

    def __init__(self, processes: int) -> None:
        # Not forked: a process forked from one with threads, or with a GPU, may hang. None is begun before its task.
        self._pool = (
            None
            if processes == 1
            else ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
        )
        self._failed = False

    def __enter__(self) -> "Workers":
        self._others = set(multiprocessing.active_children())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for its processes to end; after an error or an interruption end them, and no other child."""
        if self._pool is None:
            return
        if kind is None and not self._failed:
            self._pool.shutdown()
            return
        # First: a pool of which a process was killed waits for the others, which ignore its request to end.
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def finished(self, tasks: Mapping[Key, Callable[[], Result]]) -> Iterator[tuple[Key, Result, float]]:
        """Call the tasks; yield key, result and seconds of each when it is done.

        When one fails, those that wait are not begun, but for one that is on its way to a process; what goes on already
        is waited for and yielded, then the first failure is raised.

        Args:
            tasks: functions without arguments; those of other processes must pickle, ``functools.partial`` of a
                function of a module for example.

        Raises:
            Exception: what a task raised.
            concurrent.futures.process.BrokenProcessPool: a process was killed, for want of memory for example.
        """
        if self._pool is None:
            yield from _one_by_one(tasks)
            return
        failure: BaseException | None = None
        with _interruptions_held_back():  # here processes are started
            keys: dict[Future[tuple[Result, float]], Key] = {
                self._pool.submit(timed, task): key for key, task in tasks.items()
            }
        for future in as_completed(keys):
            if future.cancelled():
                continue
            if error := future.exception():
                failure = failure or error
                for other in keys:
                    other.cancel()
                continue
            yield keys[future], *future.result()
        if failure is not None:
            self._failed = True
            raise failure


def finished(tasks: Mapping[Key, Callable[[], Result]], processes: int) -> Iterator[tuple[Key, Result, float]]:
    """Call tasks by :class:`Workers` that are for them alone; see :meth:`Workers.finished`."""
    with Workers(processes) as workers:
        yield from workers.finished(tasks)


def _one_by_one(tasks: Mapping[Key, Callable[[], Result]]) -> Iterator[tuple[Key, Result, float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for key, task in tasks.items():
            yield key, *timed(task)
    finally:
        torch.set_num_threads(threads)


def in_new_process(task: Callable[[], Result]) -> Result:
    """Call a task, which must pickle, in a process that does nothing else, on one thread; return its result."""
    ((_, result, _),) = finished({None: task}, 2)
    return result


def timed(task: Callable[[], Result]) -> tuple[Result, float]:
    """Call a task, and return its result and the seconds that it took."""
    started = time.perf_counter()
    return task(), time.perf_counter() - started


# An interruption from the keyboard, or a request to end, may go to all processes; the first one ends the others, and
# speaks of it. They ignore it from the first task on. Until then, while they import torch, it is held back: they have
# that from the thread that starts them.
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Take a request to end (SIGTERM, of a scheduler or of ``timeout``) as an interruption from the keyboard.

    Only the first thread can; in another nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _interruptions_held_back() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    for number in INTERRUPTIONS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTIONS)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """End when the process that wants the results has ended, however: nothing else would tell, and work goes on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
