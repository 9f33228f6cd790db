"""The reproduce command that is interrupted, goes on, meets runs of others, and trainings that diverge."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from experiments.commands import reproduce
from experiments.reproduction import experiment, settings, workers
from experiments.reproduction.runs import MEASURE
from experiments.running import Log
from tests.support.reproduce_command import QUICK, ROOT, needs_the_extra, parse, read

pytestmark = pytest.mark.same_without_gpu

CHECK = settings.check(settings.defaults("digits"))


def test_an_interruption_ends_with_one_line_and_leaves_what_was_done(tmp_path, capsys, monkeypatch):
    needs_the_extra()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "run_all", interrupted)
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "new" / "folder", tmp_path / "there"):
        for _ in range(2):
            assert reproduce.run(parse("--check", "--output", str(folder))) == 130
            assert capsys.readouterr().err == (
                "experiments reproduce: error: interrupted; the runs that were done are kept, and the same command "
                "goes on with the others\n"
            )
            assert [path.name for path in folder.iterdir() if path.is_file()] == [reproduce.RUNS]


def test_an_interrupted_command_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    """The line that was being written is lost, and run again; the tables are those of an uninterrupted command."""
    needs_the_extra()
    flags = (*QUICK, "--pools", "gcp", "--rates", "0.1", "--landscape-every", "1000", "--output")
    assert reproduce.run(parse(*flags, str(tmp_path / "whole"))) == 0
    runs = (tmp_path / "whole" / reproduce.RUNS).read_text(encoding="utf-8")
    lines = runs.splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / reproduce.RUNS).write_text("".join(lines[:4]) + lines[4][:100], encoding="utf-8")
    ran = []
    whole = experiment.train_and_measure
    monkeypatch.setattr(workers, "train_and_measure", lambda job, *rest: ran.append(job) or whole(job, *rest))
    capsys.readouterr()
    assert reproduce.run(parse(*flags, str(tmp_path / "cut"))) == 0
    assert "of an interrupted command 3 runs are kept" in capsys.readouterr().out
    assert len(ran) == len(lines) - 4 == 2
    for table in (path.name for path in (tmp_path / "whole").glob("*.csv")):
        assert (tmp_path / "cut" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    assert "5 runs, each on one thread" in (tmp_path / "cut" / "report.md").read_text(encoding="utf-8")


def test_runs_of_other_settings_are_refused_and_kept(tmp_path, capsys):
    needs_the_extra()
    Log(tmp_path / reproduce.RUNS, {**asdict(CHECK), "gcp_kernels": "of yesterday"})
    before = (tmp_path / reproduce.RUNS).read_bytes()
    assert reproduce.run(parse("--check", "--epochs", "3", "--output", str(tmp_path))) == 2
    error = capsys.readouterr().err
    assert "other settings: epochs is 2 there, not 3; gcp_kernels is 'of yesterday' there, not" in error
    assert (tmp_path / reproduce.RUNS).read_bytes() == before


def test_a_pooling_that_diverges_with_every_rate_ends_with_one_error(tmp_path, capsys):
    needs_the_extra()
    flags = (*QUICK, "--rates", "1e38", "1e37", "--output", str(tmp_path / "new"))
    assert reproduce.run(parse(*flags)) == 1
    assert "error: cnn, avg: with every rate a training diverged; the runs that were done" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == [reproduce.RUNS]


def test_a_rate_that_diverges_when_measured_is_not_chosen(tmp_path, capsys, monkeypatch):
    """The next best is taken, for the pooling whose training it was."""
    needs_the_extra()
    real = experiment.train_and_measure

    def one_diverges(job, data, settings):
        run = real(job, data, settings)
        if (job.kind, job.pool) == (MEASURE, "gcp") and job.rate == chosen[0]:
            return replace(run, loss=float("inf"), walks=[], robustness={}, flatness=None)
        return run

    chosen = []
    monkeypatch.setattr(workers, "train_and_measure", lambda *args: one_diverges(*args) if chosen else real(*args))
    flags = (*QUICK, "--pools", "gcp", "--rates", "0.1", "0.2", "--output")
    assert reproduce.run(parse(*flags, str(tmp_path / "first"))) == 0
    rows = [row for row in read(tmp_path / "first" / "rates.csv") if row["pool"] == "gcp"]
    chosen.append(float(max(rows, key=lambda row: float(row["accuracy"]))["rate"]))
    assert reproduce.run(parse(*flags, str(tmp_path / "second"))) == 0
    report = (tmp_path / "second" / "report.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| CNN-64 \| GCP \| (.*) \| (.*) \|$", report.split("## 1.")[0], re.MULTILINE)
    assert row[(0.1, 0.2).index(chosen[0])] == "diverged"
    assert row[(0.2, 0.1).index(chosen[0])].startswith("**")
    assert "trainings that did: 1." in report
    assert len(read(tmp_path / "second" / "convergence.csv")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all_processes(tmp_path, number):
    """The terminal sends it to all of them, and so does ``timeout`` when the time of a job is over."""
    needs_the_extra()
    command = [sys.executable, "-m", "experiments", "reproduce", "--check", "--jobs", "2", "--output"]
    first = subprocess.Popen(
        [*command, str(tmp_path / "new")], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
        # What a shell began in the background has inherited that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert "choose cnn" in "".join(first.stdout.readline() for _ in range(2))
    os.killpg(first.pid, number)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 130
    assert error.startswith("experiments reproduce: error: interrupted; the runs that were done are kept")
    assert error.count("\n") == 1
