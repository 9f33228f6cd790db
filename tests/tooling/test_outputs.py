"""What every command does with results that are there already where it is to write: it refuses, before any work."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import rows
from benchmarks.cases import Case
from benchmarks.environment import environment
from benchmarks.speed import plot
from experiments.__main__ import main as experiments
from experiments.commands import demo
from gcp_kernels.commands import argument_types

ROOT = Path(__file__).parents[2]
SMALL = ("run", "--set", "small", "--device", "cpu", "--group", "exact", "--provider", "eigh")
# Command, and how its output is named; each folder or file must be new.
FOLDERS = {
    "run": (benchmarks, (*SMALL, "--output")),
    "end-to-end": (benchmarks, ("end-to-end", "--device", "cpu", "--output")),
    "train": (experiments, ("train", "--output")),
    "reproduce": (experiments, ("reproduce", "--output")),
}
FILES = {
    "demo": (experiments, ("demo", "--device", "cpu", "--output")),
    "tune": (benchmarks, ("tune", "covariance", "--output")),
    "first-contact": (benchmarks, ("first-contact", "--device", "cpu", "--output")),
    "static": (benchmarks, ("static", "--json")),
    "static-extension": (benchmarks, ("static-extension", "--json")),
    "overhead": (benchmarks, ("overhead", "--json")),
}


def main(module, arguments):
    """Run a command and give its exit code, whichever way it ends."""
    try:
        return module.main(arguments) if module is benchmarks else module(arguments)
    except SystemExit as ending:
        return ending.code


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_results_is_refused(name, tmp_path, capsys):
    module, arguments = FOLDERS[name]
    (tmp_path / "results.csv").write_text("hours of work")
    (tmp_path / "a file").write_text("something else")
    for output, problem in ((tmp_path, "is not empty"), (tmp_path / "a file", "a file|not a folder")):
        assert main(module, [*arguments, str(output)]) == 2
        captured = capsys.readouterr()
        assert any(words in captured.err for words in problem.split("|")), captured.err
        assert str(output) in captured.err
        assert not captured.out
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "results.csv": "hours of work", "a file": "something else",
    }  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_results_is_refused(name, tmp_path, capsys):
    module, arguments = FILES[name]
    file = tmp_path / "results.png"
    file.write_text("hours of work")
    nowhere = tmp_path / "nowhere" / "results.png"
    for output, problem in ((file, "is there already"), (nowhere, "is not an existing")):
        assert main(module, [*arguments, str(output)]) == 2
        captured = capsys.readouterr()
        assert problem in captured.err
        assert str(output) in captured.err
        assert not captured.out
    assert file.read_text() == "hours of work"


def test_what_has_nothing_to_lose_is_taken(tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    assert argument_types.new_file(str(empty)) == empty
    assert argument_types.file_problem(tmp_path) == "it is a folder; name a new file"
    assert argument_types.file_problem(argument_types.Path("/dev/null")) is None
    # A terminal or a pipe is taken; a file would be replaced under what is printed into it.
    code = "import sys; from gcp_kernels.commands.argument_types import file_problem, Path; \
print(file_problem(Path('/dev/stdout')))"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert piped.stdout == "None\n"
    with (tmp_path / "printed").open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, cwd=ROOT)
    assert (tmp_path / "printed").read_text() == "this command prints there already; name another file\n"
    folder = tmp_path / "folder"
    assert argument_types.new_folder(str(folder)) == folder
    folder.mkdir()
    assert argument_types.new_folder(str(folder)) == folder


def test_a_list_of_what_would_be_measured_leaves_no_folder(tmp_path, capsys):
    assert not main(benchmarks, [*SMALL, "--list", "--output", str(tmp_path / "new")])
    assert "eigh" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_plots_are_drawn_again_beside_their_rows_and_nowhere_else(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: bench)")
    setting = environment(torch.device("cpu"))
    row = rows.Row.of("memory", "memory", Case(1, 16, 5, 5), "published", "iterates", peak_bytes=2**20)
    writer = rows.Writer(tmp_path / "run", setting)
    writer.write([row, replace(row, batch=4, case="4x16x5x5")])
    picture = tmp_path / "run" / "peak_memory_against_batch.png"
    for _ in range(2):
        assert plot.main([str(tmp_path / "run")]) == 0
        assert picture.is_file()
    other = tmp_path / "other"
    assert plot.main([str(tmp_path / "run"), "--output", str(other)]) == 0
    (other / picture.name).write_bytes(b"of another run")
    assert plot.main([str(tmp_path / "run"), "--output", str(other)]) == 2
    assert f"{picture.name} is there already" in capsys.readouterr().err
    assert (other / picture.name).read_bytes() == b"of another run"


def test_the_demo_draws_over_its_own_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / demo.PICTURE).write_bytes(b"of the last time")

    def stop(name, device):
        raise LookupError("work was begun")

    monkeypatch.setattr(demo, "load_dataset", stop)
    for library in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(library, reason=f"{library} is not installed (extra: demo)")
    with pytest.raises(LookupError):
        experiments(["demo", "--device", "cpu"])
