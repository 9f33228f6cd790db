"""Runs side by side, and the file that keeps them: interrupted, cut off, of other settings, failing."""

import ast
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest
import torch

from experiments.running import Log, OtherRunsError, Workers, finished, termination_interrupts

pytestmark = pytest.mark.same_without_gpu


ROOT = Path(__file__).parents[2]


def threads_and_process(number):
    return number, torch.get_num_threads(), os.getpid()


def fails(error):
    raise error


def wait(seconds):
    time.sleep(seconds)
    return seconds


def ends():
    os._exit(3)


def test_tasks_run_on_one_thread_in_processes_of_their_own():
    tasks = {f"task {number}": partial(threads_and_process, number) for number in range(4)}
    threads = torch.get_num_threads()
    alone, side_by_side = ({key: result for key, result, _ in finished(tasks, processes)} for processes in (1, 2))
    assert torch.get_num_threads() == threads
    assert list(alone) == list(tasks)
    for number, key in enumerate(tasks):
        assert alone[key] == (number, 1, os.getpid())
        assert side_by_side[key][:2] == (number, 1)
        assert side_by_side[key][2] != os.getpid()


def test_processes_stay_for_the_tasks_of_later_calls():
    """Each has to import torch, and on a GPU to begin a context."""
    with Workers(2) as workers:
        calls = [
            {result[2] for _, result, _ in workers.finished({n: partial(threads_and_process, n) for n in range(4)})}
            for _ in range(3)
        ]
    assert len(set.union(*calls)) <= 2
    assert os.getpid() not in set.union(*calls)
    assert list(Workers(2).finished({})) == []


def test_after_a_failure_nothing_is_begun_and_what_goes_on_is_kept():
    """One of two processes fails at once; the other is at work, and of those that wait some never begin."""
    tasks = {"wrong": partial(fails, KeyError("made up")), **{number: partial(wait, 0.5) for number in range(40)}}
    done = []
    began = time.monotonic()
    with pytest.raises(KeyError, match="made up"):
        done.extend(key for key, _, _ in finished(tasks, 2))
    assert done
    # The failing one may begin later by the time that a process takes to start, and one more be on its way.
    assert len(done) <= 10
    assert time.monotonic() - began < 20
    with pytest.raises(KeyError, match="made up"):
        list(finished(tasks, 1))


def test_a_killed_process_is_an_error():
    """Nobody waits for what the others are at, which ignore a request to end; other children go on.

    Python may notice a death only with the next result, if the process was begun while it waited for others.
    """
    other = multiprocessing.get_context("spawn").Process(target=wait, args=(600,))
    other.start()
    tasks = {"at work": partial(wait, 600), "killed": ends, "done": partial(wait, 2)}
    try:
        began = time.monotonic()
        with pytest.raises(BrokenProcessPool):
            list(finished(tasks, 3))
        with Workers(3) as workers, pytest.raises(BrokenProcessPool):
            list(workers.finished(tasks))
        assert time.monotonic() - began < 120
        assert within(20, lambda: multiprocessing.active_children() == [other])
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_a_request_to_end_is_an_interruption():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), termination_interrupts():
        terminated()
    assert signal.getsignal(signal.SIGTERM) is before


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def test_where_signals_cannot_be_taken_nothing_is_changed():
    """As in a thread, where Python has no handlers."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside_termination_interrupts).result() == "done"


def inside_termination_interrupts():
    with termination_interrupts():
        return "done"


# Two processes at work, which tell their numbers.
STARTED = """
from functools import partial
from pathlib import Path
from experiments.running import finished
from tests.experiments.test_running import tells_and_waits
if __name__ == "__main__":
    list(finished({name: partial(tells_and_waits, %r, name) for name in "ab"}, 2))
"""


def tells_and_waits(folder, name):
    (Path(folder) / f"{name}.new").write_text(str(os.getpid()))
    (Path(folder) / f"{name}.new").rename(Path(folder) / name)
    time.sleep(600)


def within(seconds, condition):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told from /proc")
def test_processes_end_with_the_one_that_is_killed(tmp_path):
    (tmp_path / "started.py").write_text(STARTED % str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen([sys.executable, str(tmp_path / "started.py")], cwd=ROOT, env=environment)
    try:
        assert within(120, lambda: all((tmp_path / name).exists() for name in "ab"))
    finally:
        first.kill()
        first.wait()
    for name in "ab":
        number = int((tmp_path / name).read_text())
        assert within(20, partial(is_gone, number))


# Two processes that are still being started, which takes seconds with torch, and tell their numbers.
STARTING = """
import os
import time
from functools import partial
from pathlib import Path
from experiments.running import finished
if __name__ == "__main__":
    print([key for key, _, _ in finished(dict.fromkeys("ab", partial(time.sleep, 0)), 2)])
else:
    (Path(%r) / f"{os.getpid()}.number").touch()
    time.sleep(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
def test_an_interruption_is_for_the_first_process_alone(tmp_path):
    """It speaks of it and ends the others: they do not hear it, not even before they are at work."""
    (tmp_path / "started.py").write_text(STARTING % str(tmp_path))
    first = subprocess.Popen(
        [sys.executable, str(tmp_path / "started.py")], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What a shell began in the background has inherited that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert within(120, lambda: len(list(tmp_path.glob("*.number"))) == 2)
    for path in tmp_path.glob("*.number"):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(int(path.stem), number)
    said, error = first.communicate(timeout=60)
    assert not error
    assert sorted(ast.literal_eval(said)) == ["a", "b"]
    assert first.returncode == 0


def is_gone(number):
    """Nobody waits for an orphan, so that it may stay as a zombie."""
    status = Path(f"/proc/{number}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_a_log_keeps_runs_and_gives_them_back(tmp_path):
    log = Log(tmp_path / "runs", {"sizes": (1, 2), "name": "ä"}, {"commit": "a"})
    log.add("first", {"values": [0.1, float("inf")], "nothing": None}, 1.5)
    log.add("second", {"values": (1, 2)}, 2.5)
    again = Log(tmp_path / "runs", {"sizes": [1, 2], "name": "ä"}, {"commit": "b"})
    again.add("third", {}, 3.5)
    assert [log.made(key) for key in log] == [{"commit": "a", "seconds": seconds} for seconds in (1.5, 2.5)]
    again = Log(tmp_path / "runs", {"sizes": [1, 2], "name": "ä"})
    assert [again.made(key)["commit"] for key in again] == ["a", "a", "b"]
    assert again.made("third")["seconds"] == 3.5
    assert list(again) == ["first", "second", "third"]
    assert again["first"] == {"values": [0.1, float("inf")], "nothing": None}
    assert again["second"] == log["second"] == {"values": [1, 2]}
    assert "fourth" not in again
    assert len(again) == 3


def test_a_line_that_was_cut_off_is_run_again(tmp_path):
    path = tmp_path / "runs"
    log = Log(path, {"epochs": 3})
    log.add("first", {"loss": 1.0}, 1.0)
    whole = path.read_bytes()
    for cut in (b"{", b'{"key": "second", "run": {"loss"', "{ä".encode()[:-1]):
        path.write_bytes(whole + cut)
        again = Log(path, {"epochs": 3})
        assert list(again) == ["first"]
        assert path.read_bytes() == whole
    again.add("second", {"loss": 2.0}, 1.0)
    assert list(Log(path, {"epochs": 3})) == ["first", "second"]
    path.write_bytes(b'{"settings": {"ep')
    assert len(Log(path, {"epochs": 3})) == 0, "nothing was kept: it begins again"
    assert json.loads(path.read_text()) == {"settings": {"epochs": 3}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"settings": {"epochs": 4, "seed": 0}}\n', "epochs is 4 there, not 3; seed is 0 there, not None"),
        ("{}\n", "damaged, or not what this version writes"),
        ("hours of work\n", "damaged, or not what this version writes"),
        ('{"settings": {"epochs": 3}}\n{"key": "first"}\n', "damaged, or not what this version writes"),
        ('{"settings": {"epochs": 3}}\n{"key": "first", "run": {}}\n', "damaged, or not what this version writes"),
        ("[]\n", "damaged, or not what this version writes"),
        ("my notes of a week, without an end of the line", "is not what this version writes"),
    ],
)
def test_other_files_are_refused_and_kept(content, message, tmp_path):
    path = tmp_path / "runs"
    path.write_text(content)
    with pytest.raises(OtherRunsError, match=message):
        Log(path, {"epochs": 3})
    assert path.read_text() == content
