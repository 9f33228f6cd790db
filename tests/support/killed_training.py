"""A process that starts ``experiments train`` in child processes, kills them at given moments, and resumes them.

Run as a script with scenarios as JSON, so that torch is imported once for all of them; the children are forked before
anything is computed. A scenario has the command's arguments, without --resume, and the moments to kill it at, one after
the other; then it runs to its end. A moment is

    ["half", n]             in the middle of writing the n-th checkpoint
    ["before", name, n]     before the n-th file of that name is put in its place
    ["after", name, n]      just after that
    ["step", n]             in the n-th step
    ["seconds", s]          s seconds after it has begun, wherever that is

With "processes" there are several for each run, and the last of them is the one that is killed. Printed is the way in
which each run ended, as JSON: for each process an exit code, or the negative number of the signal.
"""

import importlib
import io
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from experiments.__main__ import main
from experiments.training.mixed_precision import MixedPrecision

TIMEOUT = 120.0
# What takes seconds to import, and every child would have to.
LOADED_BY_TRAINING = ("sklearn.datasets", "sklearn.model_selection", "torch._dynamo", "torch.distributed")


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    """Have this process killed at the moment."""
    kind, *where = moment
    if kind == "half":
        arm_half(where[0])
    elif kind in ("before", "after"):
        arm_replacement(kind, *where)
    elif kind == "step":
        arm_step(where[0])


def arm_half(number):
    save, calls = torch.save, []

    def half(state, file):
        calls.append(None)
        if len(calls) == number:
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            kill_this_process()
        save(state, file)

    torch.save = half


def arm_replacement(kind, name, number):
    replace, calls = os.replace, []

    def replaced(source, target):
        due = Path(target).name == name and (calls.append(None) or len(calls) == number)
        if due and kind == "before":
            kill_this_process()
        replace(source, target)
        if due:
            kill_this_process()

    os.replace = replaced


def arm_step(number):
    step, calls = MixedPrecision.step, []

    def stepped(self, loss, optimizer):
        calls.append(None)
        if len(calls) == number:
            loss.backward()
            kill_this_process()
        step(self, loss, optimizer)

    MixedPrecision.step = stepped


def start(arguments, moment, rank, processes, port):
    """Fork a child that trains; return its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.dup2(2, 1)  # standard output is for the results
        if processes > 1:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_RANK=str(rank))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        if moment and rank == processes - 1:
            arm(moment)
        code = main(["train", *arguments])
    except SystemExit as ending:
        code = ending.code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = 1
    finally:
        os._exit(code)


def run(arguments, moment=None, processes=1):
    """Start, kill where that is asked of this process, wait; how each child ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [start(arguments, moment, rank, processes, port) for rank in range(processes)]
    if moment and moment[0] == "seconds":
        time.sleep(moment[1])
        os.kill(children[-1], signal.SIGKILL)
    deadline = time.monotonic() + TIMEOUT
    endings = []
    for child in children:
        ended, status = os.waitpid(child, os.WNOHANG)
        while not ended and time.monotonic() < deadline:
            time.sleep(0.02)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        endings.append(os.waitstatus_to_exitcode(status) if ended else "no end")
    return endings


def run_scenario(scenario):
    arguments, endings = scenario["arguments"], []
    folder = Path(arguments[arguments.index("--output") + 1])
    for moment in [*scenario["moments"], None]:
        resume = ["--resume"] if (folder / "config.json").exists() else []
        endings.append(run([*arguments, *resume], moment, scenario.get("processes", 1)))
    return endings


if __name__ == "__main__":
    torch.set_num_threads(1)
    for module in LOADED_BY_TRAINING:
        importlib.import_module(module)
    json.dump([run_scenario(scenario) for scenario in json.loads(sys.argv[1])], sys.stdout)
