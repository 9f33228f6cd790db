"""Files that are replaced as a whole, on disks that are full or fail and on file systems that refuse some calls."""

import errno
import os
import re
import resource
import stat
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.rows import Writer
from experiments.demo import picture
from experiments.training import Epoch
from gcp_kernels.commands.atomic_files import NotWrittenError, write_atomically, write_table, write_text

KIB = 1024


@contextmanager
def disk_for(size):
    """Let the system refuse, inside, to make a file larger than this, as a full disk does, with another error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("floats", "limit"), [(10, KIB), (100_000, KIB), (100_000, 512 * KIB)])
def test_a_checkpoint_that_does_not_fit_names_file_and_reason(floats, limit, tmp_path):
    """In the middle of a tensor torch's writer hides the refusal behind an error of its own."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"old")
    state = {str(number): torch.zeros(floats) for number in range(30)}
    with disk_for(limit), pytest.raises(NotWrittenError, match=r"checkpoint.pt cannot be written: \[Errno 27\] File"):
        write_atomically(path, partial(torch.save, state))
    assert names(tmp_path) == ["checkpoint.pt"]
    assert path.read_bytes() == b"old"


def test_a_device_is_written_to_and_stays_one(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("the system has no /dev/full")
    with pytest.raises(NotWrittenError, match=r"^/dev/full cannot be written: \[Errno 28\] No space left on device$"):
        write_atomically(full, partial(torch.save, torch.zeros(100)))
    (tmp_path / "link").symlink_to(full)
    with pytest.raises(NotWrittenError, match="No space left on device"):
        write_text(tmp_path / "link", "text")
    assert stat.S_ISCHR(full.stat().st_mode)
    assert names(tmp_path) == ["link"]


def test_tables_and_pictures_that_do_not_fit_leave_nothing(tmp_path):
    with disk_for(KIB), pytest.raises(NotWrittenError, match=r"table.csv cannot be written"):
        write_table(tmp_path / "table.csv", ["x"], [{"x": 1}] * KIB)
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    epochs = [Epoch(0.5, 90.0, 1.0)]
    for suffix in picture.FORMATS:
        path = tmp_path / f"plot{suffix}"
        with disk_for(KIB), pytest.raises(NotWrittenError, match=re.escape(f"{path} cannot be written: [Errno 27]")):
            picture.plot({"one": epochs}, "title", path)
    assert names(tmp_path) == []
    picture.plot({"one": epochs}, "title", tmp_path / "plot.PNG")
    assert (tmp_path / "plot.PNG").read_bytes().startswith(b"\x89PNG")


def test_rows_of_a_benchmark_are_all_there_or_not(tmp_path):
    """An incomplete last line would make the run one that cannot be read."""
    writer = Writer(tmp_path / "run", {"text": "x" * 100})
    writer.write([])
    with disk_for(10), pytest.raises(NotWrittenError, match=r"results\.csv cannot be written"):
        writer.finish()
    assert names(tmp_path / "run") == ["results.jsonl"]


def refusing(monkeypatch, number, folders):
    """Have ``fsync`` fail for files or for folders."""
    right = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        right(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_that_cannot_sync_is_written_to(name, folders, tmp_path, monkeypatch):
    refusing(monkeypatch, getattr(errno, name), folders)
    write_text(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
def test_a_disk_that_fails_is_an_error(name, folders, tmp_path, monkeypatch):
    refusing(monkeypatch, getattr(errno, name), folders)
    with pytest.raises(NotWrittenError, match=rf"file cannot be written: \[Errno {getattr(errno, name)}\]"):
        write_text(tmp_path / "file", "text")
    assert ".file.partial" not in names(tmp_path)


def test_a_folder_that_cannot_be_read_is_written_to(tmp_path, monkeypatch):
    right = os.open

    def refuse(path, *arguments):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return right(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    write_text(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "text"


@pytest.mark.parametrize("place", ["missing/file", "file/below", "folder", "n" * 300])
def test_a_place_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotWrittenError, match=rf"^{re.escape(str(tmp_path / place))} cannot be written: \[Errno \d+\]"):
        write_text(tmp_path / place, "new")
    assert names(tmp_path) == ["file", "folder"]


def test_a_name_that_is_no_utf_8_is_written_as_an_escape(tmp_path):
    write_text(tmp_path / "file", os.fsdecode(b"a\xffb") + " ä")
    assert (tmp_path / "file").read_bytes() == b"a\\udcffb \xc3\xa4"
