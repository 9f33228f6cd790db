"""benchmarks/results: each run says its commit, versions and date, is small, and its files can be checked out."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import rows

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
RUNS = sorted(path for path in RESULTS.iterdir() if path.is_dir())
VERSIONS = {"torch": r"\d+\.\d+\.\d+", "triton": r"\d+\.\d+\.\d+", "python": r"3\.\d+\.\d+", "cuda": r"none|\d+\.\d+"}


def test_there_are_runs_and_every_file_belongs_to_one():
    assert len(RUNS) >= 4
    assert {path.name for path in RESULTS.iterdir() if path.is_file()} == {"static_cuda_extension.txt"}


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_run_says_its_commit_versions_and_date(folder):
    committed = rows.read(folder)
    for row, setting in zip(committed.rows, committed.environments, strict=True):
        assert re.fullmatch(r"[0-9a-f]{12}", setting["commit"])
        for name, pattern in VERSIONS.items():
            assert re.match(pattern, setting[name]), f"{name} {setting[name]}"
        assert (row.milliseconds is None and row.peak_bytes is None) == (row.problem is not None)
    said = (folder / "README.md").read_text(encoding="utf-8")
    commits = {setting["commit"][:7] for setting in committed.environments}
    assert all(commit in said for commit in commits), commits
    dates = set(re.findall(r"20\d\d-\d\d-\d\d", said.partition("\n")[0]))
    assert len(dates) == 1, "the first line of README.md has the date"
    # Runs from now on have it in every row.
    assert {setting["date"] for setting in committed.environments if "date" in setting} <= dates


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_the_commit_of_a_run_can_be_checked_out(folder):
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("needs a checkout with its history")
    for commit in {setting["commit"] for setting in rows.read(folder).environments}:
        assert git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, commit


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_run_is_small(folder):
    pictures = [path for path in folder.iterdir() if path.suffix == ".png"]
    assert sum(path.stat().st_size for path in set(folder.iterdir()) - set(pictures)) < 200 * 1024
    assert sum(path.stat().st_size for path in pictures) < 150 * 1024


def test_the_static_table_says_its_commit_versions_and_date():
    first = (RESULTS / "static_cuda_extension.txt").read_text(encoding="utf-8").partition("\n")[0]
    assert re.fullmatch(
        r"python -m benchmarks static-extension   \(commit [0-9a-f]{12}, 20\d\d-\d\d-\d\d, "
        r"torch [\d.+a-z]+, nvcc [\d.]+, for [\d.;+PTX]+\)",
        first,
    ), first
