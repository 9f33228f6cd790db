"""How a command ends whose standard output is closed, full, read by nobody, or of another encoding."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmarks_main
from experiments.__main__ import main as experiments_main
from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.commands.ending import INTERRUPTED, NOT_READ, run_to_its_end
from tests.support import training_runs

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
# The second byte is no UTF-8: a name of a file, as Python has it.
NAME = os.fsdecode(b"a\xffb")


def prints(text, code=0, flush=False):
    def command():
        print(text, flush=flush)
        return code

    return command


@pytest.fixture
def output(monkeypatch):
    """Give a function that replaces standard output by a stream."""
    opened = []

    def put(stream):
        opened.append(stream)
        monkeypatch.setattr(sys, "stdout", stream)

    yield put
    monkeypatch.undo()
    for stream in opened:
        stream.close()  # what it still held would fail here, as it would at the interpreter's end


def nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize("flush", [False, True])
def test_what_nobody_reads_ends_in_silence(flush, output, capsys):
    output(nobody_reads())
    assert run_to_its_end("name", prints("text", flush=flush)) == NOT_READ == 128 + 13
    assert capsys.readouterr().err == ""


def test_help_that_nobody_reads_ends_so_too(output, capsys):
    output(nobody_reads())
    assert experiments_main(["train", "--help"]) == NOT_READ
    output(nobody_reads())
    assert benchmarks_main(["--help"]) == NOT_READ
    assert capsys.readouterr().err == ""


@needs_full
@pytest.mark.parametrize("flush", [False, True])
def test_a_full_disk_behind_standard_output_is_said_in_a_line(flush, output, capsys):
    output(FULL.open("w"))
    assert run_to_its_end("name", prints("text", flush=flush)) == 1
    assert capsys.readouterr().err == "name: error: [Errno 28] No space left on device\n"


@needs_full
def test_a_command_that_failed_itself_keeps_its_exit_code(output, capsys):
    output(FULL.open("w"))
    assert run_to_its_end("name", prints("text", code=2)) == 2
    assert capsys.readouterr().err == ""


def test_a_closed_output_swallows_what_is_printed(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run_to_its_end("name", lambda: prints("text", flush=True)() or int(sys.stderr.isatty())) == 0


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_an_encoding_does_not_have_is_printed_as_an_escape(errors, output):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
    output(stream)
    assert run_to_its_end("name", prints(f"{NAME} ä 猫")) == 0
    assert stream.buffer.getvalue() == b"a\\udcffb \\xe4 \\u732b\n"


def test_a_file_that_cannot_be_written_is_a_line(tmp_path, capsys):
    assert run_to_its_end("name", lambda: write_text(tmp_path / "nowhere" / "file", "text")) == 1
    reason = "[Errno 2] No such file or directory"
    assert capsys.readouterr().err == f"name: error: {tmp_path / 'nowhere' / 'file'} cannot be written: {reason}\n"


def test_an_interruption_is_a_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert run_to_its_end("name", interrupted) == INTERRUPTED == 130
    assert capsys.readouterr().err == "name: error: interrupted\n"


@needs_full
def test_at_the_end_of_the_interpreter_nothing_more_fails():
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gcp_kernels", "--version"],
            stdout=full, stderr=subprocess.PIPE, text=True, env={**training_runs.environment(), "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "gcp_kernels: error: [Errno 28] No space left on device\n")
