"""What tests of the training command share: starting it, and comparing what two runs left in their folders."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.training.mixed_precision import MixedPrecision

ROOT = Path(__file__).parents[2]
TIMEOUT = 400


def environment(*first):
    """Of processes that tests start: this checkout's package, after the folders given, one thread."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*first, ROOT])), "OMP_NUM_THREADS": "1"}


def needs_digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra: demo)")


def run_processes(*command, import_first=()):
    """Run a command that must succeed, in time, and give what it printed; else end it with all that it has started."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(*import_first),
        start_new_session=True,
    ) as process:
        try:
            output, error = process.communicate(timeout=TIMEOUT)
        except BaseException:
            # Workers of torchrun have sessions of their own: it ends them itself when it is asked to end.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, error
    return output, error


def run_scenarios(scenarios):
    """How the processes of each scenario ended, and their messages; see killed_training.py."""
    script = ROOT / "tests" / "support" / "killed_training.py"
    output, error = run_processes(sys.executable, str(script), json.dumps(scenarios))
    return json.loads(output), error


def torchrun(processes, *arguments, import_first=()):
    """Run the training command in so many processes, with folders to look into for modules; give what it printed."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    command = (sys.executable, *launch, "-m", "experiments", "train", *arguments)
    return run_processes(*command, import_first=import_first)[0]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(found):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def checkpoint(folder):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {**state, "history": without_seconds(state["history"])}


def assert_identical(found, expected, name="state"):
    """Bit for bit, through dictionaries and lists."""
    assert type(found) is type(expected), name
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, name
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            assert_identical(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_identical(one, other, f"{name}[{index}]")
    else:
        assert found == expected, name


def assert_same_result(folder, expected):
    """Expect the same run in two folders: parameters, optimiser, random states, tables; all but the seconds."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in expected.iterdir())
    assert_identical(checkpoint(folder), checkpoint(expected))
    assert without_seconds(rows(folder / "log.csv")) == without_seconds(rows(expected / "log.csv"))
    for name in ("landscape.csv", "config.json"):
        if (expected / name).exists():
            assert (folder / name).read_bytes() == (expected / name).read_bytes()


def interrupt(monkeypatch, step):
    """Have the user press Ctrl-C in this step of the next run in this process."""
    steps = []
    right = MixedPrecision.step

    def interrupted(self, loss, optimizer):
        steps.append(None)
        if len(steps) == step:
            raise KeyboardInterrupt
        right(self, loss, optimizer)

    monkeypatch.setattr(MixedPrecision, "step", interrupted)
