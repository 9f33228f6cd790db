"""The commit of a copied checkout: told where its files are the same, and refused where they are not."""

import pytest

from benchmarks.gpu import carried_commit, facts
from gcp_kernels.commands.checkout import commit_of

pytestmark = pytest.mark.same_without_gpu

COMMIT = "0123456789ab+changes"


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout with a source in each room, and a note of its commit beside it."""
    for room in carried_commit.ROOMS:
        (tmp_path / "checkout" / room).mkdir(parents=True)
        (tmp_path / "checkout" / room / "source.py").write_text("first = 1\n")
    carried_commit.note(tmp_path / "checkout", tmp_path, COMMIT)
    return tmp_path / "checkout"


def test_a_copy_is_of_the_commit_that_was_noted(checkout):
    (checkout / "gcp_kernels" / "_build_info.py").write_text("DETAIL = 'for 9.0'\n")
    (checkout / "gcp_kernels" / "_C.abi3.so").write_text("machine code")
    (checkout / "results").mkdir()
    assert carried_commit.read(checkout, checkout.parent) == COMMIT


@pytest.mark.parametrize("room", carried_commit.ROOMS)
@pytest.mark.parametrize("change", ["changed", "added", "removed", "renamed"])
def test_other_files_are_of_no_commit(checkout, room, change):
    source = checkout / room / "source.py"
    if change == "changed":
        source.write_text("first = 2\n")
    elif change == "added":
        source.with_name("second.cu").write_text("")
    elif change == "removed":
        source.unlink()
    else:
        source.rename(source.with_name("other.py"))
    with pytest.raises(ValueError, match=r"is of commit 0123456789ab\+changes, and files have changed since"):
        carried_commit.read(checkout, checkout.parent)


@pytest.mark.parametrize("noted", [None, "", "0123456789ab\n"])
def test_where_none_was_noted_that_is_said(checkout, noted, capsys, monkeypatch):
    file = checkout.parent / carried_commit.NAME
    if noted is None:
        file.unlink()
    else:
        file.write_text(noted)
    monkeypatch.setattr(carried_commit, "CHECKOUT", checkout)
    assert carried_commit.main([str(checkout.parent)]) == 1
    said = capsys.readouterr()
    assert f"{file} does not say which commit this is" in said.err
    assert not said.out


def test_the_command_prints_it_and_results_name_it(checkout, capsys, monkeypatch):
    monkeypatch.setattr(carried_commit, "CHECKOUT", checkout)
    assert carried_commit.main([str(checkout.parent)]) == 0
    assert capsys.readouterr().out == f"{COMMIT}\n"
    assert commit_of(checkout) == "unknown"
    monkeypatch.setenv("GCP_KERNELS_COMMIT", COMMIT)
    assert commit_of(checkout) == facts.commit() == COMMIT
