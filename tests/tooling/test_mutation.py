"""The list of planted faults and its command: every fault can be planted, and what survives is told from the caught."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutation.__main__ import QUICK, main
from tests.mutation.checkout import Checkout
from tests.mutation.fault import LAYERS, Fault, PlantingError
from tests.mutation.faults import FAULTS
from tests.mutation.verdict import CAUGHT, judge

ROOT = Path(__file__).parents[2]
TWICE = Fault("twice is thrice", "reference", "twice.py", "2 * x", "3 * x", ("test_twice.py",), "doubles")

TESTS = """
import pytest
from twice import twice

def test_fails_anyway_doubles(): assert twice(1) == 5
def test_doubles(): assert twice(2) == 4
def test_of_zero(): assert twice(0) == 0
@pytest.mark.skip(reason="for the test")
def test_skipped(): assert twice(2) == 4
"""


@pytest.fixture
def toy(tmp_path):
    """Make a checkout of one function, and a test file in a room of its own."""
    (tmp_path / "twice.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "tests" / "room").mkdir(parents=True)
    (tmp_path / "tests" / "room" / "test_twice.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return Checkout(tmp_path)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted(fault):
    checkout = Checkout(ROOT)
    assert checkout.planted_text(fault) != checkout.source(fault).read_text(encoding="utf-8")
    assert checkout.tests(fault)


def test_the_list_covers_all_layers_by_unique_names():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 50
    assert {fault.layer for fault in FAULTS} == set(LAYERS)


def test_a_fault_is_caught_by_a_test_that_passes_without_it(toy):
    verdict = judge(TWICE, toy, "")
    assert verdict.verdict == CAUGHT
    assert verdict.test.endswith("::test_doubles")
    assert "2 * x" in (toy.root / "twice.py").read_text()


@pytest.mark.parametrize(
    ("select", "verdict"), [("of_zero", "SURVIVED"), ("skipped", "NO TEST RAN"), ("nothing", "NO TEST RAN")]
)
def test_a_fault_that_no_test_sees_is_not_caught(toy, select, verdict):
    assert judge(replace(TWICE, select=select), toy, "").verdict == verdict


@pytest.mark.parametrize("text", ["4 * x", "x"])
def test_a_text_that_is_not_there_once_is_an_error(toy, text):
    with pytest.raises(PlantingError, match="not once"):
        toy.planted_text(replace(TWICE, text=text))
    assert judge(replace(TWICE, text=text), toy, "").verdict.startswith("ERROR")


def test_a_copy_has_what_git_would_track(toy, tmp_path_factory):
    subprocess.run(["git", "init", "-q", str(toy.root)], check=True)
    (toy.root / ".gitignore").write_text("ignored\n")
    (toy.root / "ignored").write_text("")
    copy = toy.copy_to(tmp_path_factory.mktemp("copy"))
    assert (copy.root / "twice.py").is_file()
    assert not (copy.root / "ignored").exists()


def test_the_command_lists_and_refuses(capsys):
    assert main(["--list", "--layer", "build"]) == 0
    assert all(line.startswith("build") for line in capsys.readouterr().out.splitlines())
    assert main(["--only", "no such fault"]) == 2
    with pytest.raises(SystemExit):
        main(["--jobs", "0"])


def test_as_default_the_tests_are_those_of_make_test():
    assert f"\nQUICK = {QUICK}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
