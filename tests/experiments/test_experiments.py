"""``python -m experiments``, the application of a checkout: that it starts there, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]
WITHOUT_PATH = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

# As the module is run, where the extras are not installed.
STARTED = """
import runpy, sys
sys.modules.update(dict.fromkeys(("sklearn", "scipy", "matplotlib", "tqdm", "torchvision")))
sys.argv = ["experiments", "--help"]
runpy.run_module("experiments", run_name="__main__")
"""


def test_it_starts_in_a_checkout_and_nowhere_else(tmp_path):
    """Nothing has to be installed but torch; of the extras nothing is imported before a command needs it."""
    done = subprocess.run(
        [sys.executable, "-c", STARTED], cwd=ROOT, env=WITHOUT_PATH, capture_output=True, text=True, check=True
    )
    assert "usage: python -m experiments" in done.stdout
    assert all(f"\n    {name} " in done.stdout for name in COMMANDS)
    command = [sys.executable, "-m", "experiments", "demo"]
    done = subprocess.run(command, cwd=tmp_path, env=WITHOUT_PATH, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "No module named experiments" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["info"], ["demo", "--nonsense"]])
def test_wrong_arguments_exit_with_2_and_say_what_is_allowed(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: python -m experiments" in capsys.readouterr().err


def test_the_commands_are_those_that_left_the_package():
    from gcp_kernels.__main__ import MOVED

    assert tuple(COMMANDS) == MOVED
