"""First contact: whatever a check does to its process, it is named, the others run, and the table has all of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
import torch

from tests.support.contact_worker import CPU, Fake, fakes

pytest.importorskip("triton", reason="half of the kernels are Triton's")

from benchmarks.sanitize import first_contact
from benchmarks.sanitize import outcome as check_outcome
from benchmarks.sanitize.first_contact import OutcomeTable
from benchmarks.sanitize.outcome import CRASHED, HUNG, NOT_RUN, OK, WRONG, Outcome, outcome_of
from benchmarks.sanitize.workers import Family, Limits, run_families

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions]

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests" / "support" / "contact_worker.py"
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="here the checks run on the GPU")

# Speaks as a serving process does, but needs no second to start. A check's name is what it does.
QUICK = """
import json, os, sys, time
started = sys.argv[1]
if started == "dies": sys.exit("no torch here")
if started == "sleeps": time.sleep(60)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    name = json.loads(line)
    if "sleeps" in name: time.sleep(60)
    if "dies" in name: os.abort()
    time.sleep(0.05)
    outcome = {"verdict": "ok", "reason": str(os.getpid()), "errors": [0.5], "seconds": 1.0, "allowed": False}
    print(json.dumps({"check": name, "outcome": outcome, "lost": "lost" in name}), flush=True)
if started == "ends badly": sys.exit(3)
"""


def quick(name, checks, started="well"):
    return Family(name, [sys.executable, "-c", QUICK, started], deque(checks))


def outcomes_of(families, jobs=2, **limits):
    """Give what is reported, in its order: pairs of a check's name and its outcome."""
    found = []
    limits = Limits(**{"start": 30, "check": 30, "whole": 60, **limits})
    run_families(families, jobs, limits, lambda check, outcome: found.append((check, outcome)))
    return found


# --- a check ---


def test_outcomes_of_checks_in_this_process():
    found = {one.behaviour: outcome_of(one, CPU) for one in fakes("A:ok,wrong,not a number,raises,cannot")}
    assert {name: one.verdict for name, one in found.items()} == {
        "ok": OK, "wrong": WRONG, "not a number": WRONG, "raises": CRASHED, "cannot": NOT_RUN,
    }  # fmt: skip
    assert found["ok"].errors == (0.0,)
    assert found["wrong"].errors == (pytest.approx(0.01, rel=1e-3),)
    assert found["not a number"].errors == (float("inf"),)
    assert 0 < found["ok"].seconds < 60
    assert found["raises"].reason.startswith("RuntimeError: The size of tensor a")
    assert found["cannot"] == Outcome(NOT_RUN, "it cannot run here", allowed=True)
    assert {name for name, one in found.items() if one.failed} == {"wrong", "not a number", "raises"}


def test_what_cannot_be_compared_is_an_outcome_too(monkeypatch):
    """The launch was timed by then, which tells it from one that raised."""
    check = Fake("A", "ok", 0)
    monkeypatch.setattr(check_outcome.Work, "errors", lambda self, found: [][0])
    outcome = outcome_of(check, CPU)
    assert outcome.verdict == CRASHED
    assert outcome.reason.startswith("IndexError")
    assert outcome.seconds is not None


def test_an_outcome_says_what_the_device_made_of_the_form(monkeypatch, capsys):
    """Also where it raised: which matrices were resident is half of what one wants to know then."""
    monkeypatch.setattr(check_outcome, "layout", lambda check, device: "3/3 2/8 resident")
    for behaviour in ("ok", "raises"):
        outcome = outcome_of(Fake("A", behaviour, 0), CPU)
        assert outcome.layout == "3/3 2/8 resident"
        assert "made up 3/3 2/8 resident" in table(capsys, ("cuda", outcome))[1]


# --- processes ---


def test_a_family_has_one_process_and_keeps_its_order():
    found = outcomes_of([quick("A", ["a0", "a1", "a2"]), quick("B", ["b0", "b1"])], jobs=1)
    assert [check for check, _ in found] == ["a0", "a1", "a2", "b0", "b1"]
    processes = [outcome.reason for _, outcome in found]
    assert len(set(processes[:3])) == len(set(processes[3:])) == 1
    assert processes[0] != processes[3]


def test_idle_processes_help_with_a_long_family():
    found = outcomes_of([quick("A", [f"a{i}" for i in range(30)])], jobs=3)
    assert sorted(check for check, _ in found) == sorted(f"a{i}" for i in range(30))
    assert len({outcome.reason for _, outcome in found}) > 1


def test_the_check_that_a_process_dies_at_is_named_and_the_rest_runs_in_another():
    found = dict(outcomes_of([quick("A", ["a", "dies", "b", "lost", "c"])], jobs=1))
    assert {check: outcome.verdict for check, outcome in found.items()} == {
        "a": OK, "dies": CRASHED, "b": OK, "lost": OK, "c": OK,
    }  # fmt: skip
    assert "was ended by SIGABRT" in found["dies"].reason
    processes = {check: found[check].reason for check in ("a", "b", "lost", "c")}
    assert len({processes["a"], processes["b"], processes["c"]}) == 3, "each after a loss is another process"
    assert processes["b"] == processes["lost"]


def test_a_hang_is_killed_and_named():
    begun = time.monotonic()
    found = dict(outcomes_of([quick("A", ["a", "sleeps", "b"])], jobs=1, check=1.5))
    assert time.monotonic() - begun < 20
    assert {check: outcome.verdict for check, outcome in found.items()} == {"a": OK, "sleeps": HUNG, "b": OK}
    assert found["sleeps"].reason.startswith("killed after 1.5 s")


@pytest.mark.parametrize(
    ("started", "said"), [("dies", "it ended with 1, saying 'no torch here'"), ("sleeps", "it was not ready after 1 s")]
)
def test_a_family_whose_process_never_starts_is_given_up_and_others_run(started, said):
    found = dict(outcomes_of([quick("A", ["a", "b"], started), quick("B", ["c"])], start=1 if "sl" in started else 30))
    assert found["c"].verdict == OK
    for name in "ab":
        assert found[name].verdict == NOT_RUN
        assert found[name].failed, "that nothing could start is no property of the machine"
        assert said in found[name].reason


def test_a_process_that_ends_badly_after_its_checks_is_reported():
    found = outcomes_of([quick("A", ["a", "b"], "ends badly")], jobs=1)
    assert [(check, outcome.verdict) for check, outcome in found] == [("a", OK), ("b", OK), ("b", CRASHED)]
    assert found[-1][1].reason == "afterwards, at its end, its process ended with 3"


def test_when_time_is_over_all_that_is_left_is_said_to_be_not_run():
    begun = time.monotonic()
    found = dict(outcomes_of([quick("A", ["a", "sleeps", "b"]), quick("B", ["sleeps too", "c"])], whole=3))
    assert time.monotonic() - begun < 20
    assert {check: outcome.verdict for check, outcome in found.items()} == {
        "a": OK, "sleeps": NOT_RUN, "b": NOT_RUN, "sleeps too": NOT_RUN, "c": NOT_RUN,
    }  # fmt: skip
    assert found["b"].reason == "out of time: 3 s for all checks are over"
    assert re.fullmatch(r"it was stopped [123] s after it began", found["sleeps"].reason)
    assert all(outcome.failed for outcome in found.values() if outcome.verdict == NOT_RUN)


def test_a_signal_ends_it_in_order():
    script = (
        "from tests.tooling.test_first_contact import *\n"
        "run_families([quick('A', ['a', 'sleeps', 'b'])], 1, Limits(30, 60, 60), "
        "lambda check, outcome: print(check, outcome.verdict, outcome.reason, flush=True))\nprint('the end')"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("a ok")
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read().splitlines()
    assert [line.split()[0] for line in rest] == ["sleeps", "b", "the"]
    assert rest[1] == "b NOT RUN stopped by SIGTERM"


# --- the command ---


@pytest.fixture
def contact(monkeypatch, tmp_path, capsys):
    """Run the command on made-up checks; give its exit status, what it printed, and its lines of JSON."""

    def run(text, *arguments):
        monkeypatch.setattr(first_contact, "checks", lambda names, capability: fakes(text))
        monkeypatch.setattr(first_contact, "command", lambda backend, device: [sys.executable, str(WORKER), text])
        monkeypatch.setenv("CONTACT_PIDS", str(tmp_path))
        file = tmp_path / "outcomes.jsonl"
        status = first_contact.main(
            ["--device", "cpu", "--backend", "triton", "--output", str(file), "--jobs", "2", *arguments]
        )
        return status, capsys.readouterr().out, [json.loads(line) for line in file.read_text().splitlines()]

    return run


def test_every_fault_is_named_and_every_other_check_runs(contact, tmp_path):
    text = "A:ok,dies,garbage,raises,wrong,ok,killed,not a number,cannot,ok;B:illegal,ok,hangs,ok,bad end"
    status, printed, lines = contact(text, "--check-seconds", "6")
    assert status == 1
    environment, *outcomes, counts = lines
    assert environment["environment"]["torch"] == torch.__version__
    found = {}
    for one in outcomes:
        found.setdefault(one["check"], []).append(one)
    expected = {"ok": OK, "garbage": OK, "wrong": WRONG, "not a number": WRONG, "hangs": HUNG, "cannot": NOT_RUN}
    assert set(found) == set(map(str, fakes(text)))
    for check in fakes(text):
        if check.behaviour != "bad end":
            assert [one["verdict"] for one in found[str(check)]] == [expected.get(check.behaviour, CRASHED)], str(check)
    of = {one["check"].split(" ", 2)[2].rsplit(" ", 1)[0]: one for one in outcomes}
    assert [one["verdict"] for one in found["family B bad end 4"]] == [OK, CRASHED]
    assert "its process ended with 7" in of["bad end"]["reason"]
    assert "was ended by SIGABRT in support/contact_worker.py:" in of["dies"]["reason"]
    assert "die, saying 'Fatal Python error: Aborted'" in of["dies"]["reason"]
    assert "was ended by SIGKILL" in of["killed"]["reason"]
    assert re.match(r"killed after 6 s in support/contact_worker\.py:\d+ hang", of["hangs"]["reason"])
    assert of["illegal"]["reason"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert of["not a number"]["errors"] == ["inf"]
    assert of["wrong"]["errors"] == [pytest.approx(0.01, rel=1e-3)]
    # What hung was ended with all that it had started; the system may not have cleared it away yet.
    state = Path("/proc", (tmp_path / "hang").read_text(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"

    assert counts["counts"] == {OK: 6 + 1, WRONG: 2, CRASHED: 5, HUNG: 1, NOT_RUN: 1}
    assert counts["exit_status"] == 1
    table, _, failed = printed.partition("\nwhat failed, the simplest first:\n")
    assert len(table.splitlines()) == 2 + len(outcomes)
    rows = failed.splitlines()[:-2]
    assert len(rows) == sum(one["failed"] for one in outcomes) == 8
    assert "fake B" in rows[0]
    assert "illegal" in rows[0]
    assert re.fullmatch(
        r"16 checks in \d+ s: 7 ok, 2 WRONG, 5 CRASHED, 1 HUNG, 1 NOT RUN; exit status 1", failed.splitlines()[-1]
    )


def test_all_is_well(contact):
    status, printed, lines = contact("A:ok,cannot,ok")
    assert status == 0
    assert "what failed" not in printed
    assert " ".join(printed.splitlines()[1].split()) == "kernel form precision shape error / limit first s verdict"
    assert printed.splitlines()[2].startswith("fake A                      made up")
    assert printed.endswith("2 ok, 0 WRONG, 0 CRASHED, 0 HUNG, 1 NOT RUN; exit status 0\n")
    assert lines[-1]["exit_status"] == 0


def table(capsys, *outcomes):
    found = OutcomeTable(
        dict.fromkeys(("device", "driver", "cuda", "torch", "triton", "commit"), "made up"), None, time.monotonic()
    )
    for backend, outcome in outcomes:
        found.add(Fake("A", "ok", 0, backend), outcome)
    return found.finish(), capsys.readouterr().out


def test_a_backend_of_which_nothing_ran_is_a_failure(capsys):
    right, cannot = Outcome(OK, "", (1e-4,), 1.5), Outcome(NOT_RUN, "an old driver", allowed=True)
    assert table(capsys, ("cuda", right), ("cuda", cannot), ("triton", right))[0] == 0
    status, printed = table(capsys, ("cuda", cannot), ("triton", right))
    assert status == 1
    assert "no kernel of cuda was run" in printed
    assert table(capsys)[0] == 1, "nor is nothing at all a success"


def test_a_row_has_errors_as_shares_of_the_limit(capsys):
    _, printed = table(capsys, ("cuda", Outcome(WRONG, "", (5e-4, 0.02, float("inf")), 12.345)))
    assert printed.splitlines()[2].split() == (
        ["fake", "A", "made", "up", "float32", "high", "1x2x3", "0.5", "20", "inf", "12.35", "WRONG"]
    )  # fmt: skip


@without_a_gpu
def test_what_is_not_there_is_said_with_how_to_get_it(monkeypatch, capsys):
    """The extension is not built, and Triton's checks run all the same."""
    monkeypatch.setattr(first_contact, "MODULES", {"cuda": "gcp_kernels._nowhere", "triton": "triton"})
    asked = []
    monkeypatch.setattr(first_contact, "checks", lambda names, capability: asked.append(names) or fakes("A:ok"))
    monkeypatch.setattr(first_contact, "run", lambda chosen, args, table, seconds: table.add(chosen[0], Outcome(OK)))
    assert first_contact.main(["--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert asked == [("triton",)]
    assert "GCP_KERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0 python -m pip install --no-build-isolation" in printed
    assert "1 ok, 0 WRONG, 0 CRASHED, 0 HUNG, 1 NOT RUN; exit status 1" in printed


@without_a_gpu
def test_it_refuses_without_a_gpu(capsys):
    assert first_contact.main([]) == 2
    assert "needs a GPU that torch can use; --device cpu has kernels interpreted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--device", "meta"], ["--jobs", "0"], ["--seconds", "0"], ["--check-seconds", "x"], ["--backend", "c"]],
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        first_contact.main(arguments)
    assert ending.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@without_a_gpu
def test_kernels_as_they_are_typed(tmp_path):
    """The true path, but for the GPU: Triton's kernels interpreted, in processes of their own."""
    file = tmp_path / "outcomes.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "first-contact", "--device", "cpu", "--backend", "triton",
         "--only", "on chip forward of features C=16", "--output", str(file)],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("2 ok, 0 WRONG, 0 CRASHED, 0 HUNG, 0 NOT RUN; exit status 0")
    outcomes = [json.loads(line) for line in file.read_text().splitlines()][1:-1]
    assert {(one["kernel"], one["precision"]) for one in outcomes} == {
        ("triton on chip forward", "fast"), ("triton on chip forward", "high"),
    }  # fmt: skip
    for one in outcomes:
        assert 0 < one["errors"][0] <= one["limit"]
        assert one["seconds"] > 0
