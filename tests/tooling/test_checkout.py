"""The commit that results name: of a git checkout as git has it, of a copy as it was noted of the same sources."""

import shutil
import subprocess

import pytest

from gcp_kernels.commands import checkout
from gcp_kernels.commands.checkout import CHANGED, NOTED, ROOMS, UNKNOWN, commit_of, note_commit

pytestmark = [
    pytest.mark.same_without_gpu,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def git(folder, *arguments):
    names = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(
        ["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def original(tmp_path):
    """Make a git checkout of a source in each room, which ignores the folder of the note, as this one does."""
    folder = tmp_path / "original"
    for room in ROOMS:
        (folder / room).mkdir(parents=True)
        (folder / room / "source.py").write_text("first = 1\n")
    (folder / ".gitignore").write_text("/.gpu/\n*.so\n_build_info.py\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def copied(original, *, without_history=True):
    copy = original.with_name("copy")
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns(".git") if without_history else None)
    return copy


def test_git_says_which_commit_it_is(original):
    head = git(original, "rev-parse", "--short=12", "HEAD")
    assert commit_of(original) == head
    (original / "csrc" / "source.py").write_text("first = 2\n")
    assert commit_of(original) == head + CHANGED


def test_a_copy_is_of_the_commit_that_was_noted(original):
    head = git(original, "rev-parse", "--short=12", "HEAD")
    assert note_commit(original) == head
    copy = copied(original)
    (copy / "gcp_kernels" / "_build_info.py").write_text("DETAIL = 'for 9.0'\n")
    (copy / "gcp_kernels" / "_C.abi3.so").write_text("machine code")
    assert commit_of(copy) == head
    (copy / NOTED).unlink()
    assert commit_of(copy) == UNKNOWN


def test_a_copy_whose_history_ends_earlier_is_of_the_commit_that_was_noted(original):
    """git then says that all of it has changed."""
    copy = copied(original, without_history=False)
    (original / "csrc" / "source.py").write_text("first = 2\n")
    git(original, "commit", "-qam", "second")
    head = note_commit(original)
    shutil.copy(original / "csrc" / "source.py", copy / "csrc")
    assert commit_of(copy).endswith(CHANGED)
    (copy / NOTED).parent.mkdir()
    shutil.copy(original / NOTED, copy / NOTED)
    assert commit_of(copy) == head


def test_where_git_knows_the_files_no_note_counts(original):
    note_commit(original)
    (original / "README.md").touch()
    git(original, "add", "-A")
    git(original, "commit", "-qm", "second, of the same sources")
    assert commit_of(original) == git(original, "rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed"])
def test_a_copy_of_other_sources_is_of_no_commit(original, room, change):
    note_commit(original)
    copy = copied(original)
    source = copy / room / "source.py"
    if change == "changed":
        source.write_text("first = 2\n")
    elif change == "added":
        source.with_name("second.cu").write_text("")
    elif change == "removed":
        source.unlink()
    else:
        source.rename(source.with_name("other.py"))
    assert commit_of(copy) == UNKNOWN


@pytest.mark.parametrize("noted", ["", "0123456789ab\n", "0123456789ab of other sources\n"])
def test_a_note_that_says_nothing_is_none(original, noted):
    copy = copied(original)
    (copy / NOTED).parent.mkdir()
    (copy / NOTED).write_text(noted)
    assert commit_of(copy) == UNKNOWN


def test_what_has_changed_since_is_noted_so(original):
    (original / "benchmarks" / "source.py").write_text("first = 2\n")
    noted = note_commit(original)
    assert noted.endswith(CHANGED)
    assert commit_of(copied(original)) == noted
    assert note_commit(original) == noted


def test_a_checkout_without_git_is_of_no_commit(original, monkeypatch):
    def run(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(checkout.subprocess, "run", run)
    assert commit_of(original) == UNKNOWN
