"""A checkpoint is verified before it is read: what is damaged, or something else, is one error, and nothing is run."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from gcp_kernels.checkpoint_file import CheckpointError, read_checkpoint
from tests.support import training_runs


def small_state() -> dict[str, Any]:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors = {"half": torch.ones(3).half(), "count": torch.tensor(3), "none": torch.ones(0)}
    return {"epoch": 3, "rate": 0.5, "network": layer.state_dict(), "optimizer": optimizer.state_dict(), **tensors}


def saved(state: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize("mask", ["one bit", 0x10, 0xFF])  # 0x10 makes a directory of a record, for torch's reader
def test_no_byte_can_change_and_be_loaded_as_something_else(path: Path, mask: Any) -> None:
    state = small_state()
    content = saved(state)
    path.write_bytes(content)
    reasons = {}
    with path.open("r+b", buffering=0) as file:
        for position in range(0, len(content), 7):  # that is no divisor of the length of an entry
            byte = content[position]
            file.seek(position)
            file.write(bytes([byte ^ (1 << position % 8 if mask == "one bit" else mask)]))
            try:
                training_runs.assert_identical(read_checkpoint(path), state)  # of a byte that carries no meaning
            except CheckpointError as error:
                reasons[position] = str(error)
            file.seek(position)
            file.write(bytes([byte]))
    assert all(reason.startswith(f"{path} cannot be read as a checkpoint: ") for reason in reasons.values())
    assert not any("\n" in reason for reason in reasons.values())
    for tensor in state["network"].values():
        data = content.index(tensor.numpy().tobytes())
        assert set(range(0, len(content), 7)) & set(range(data, data + tensor.nbytes)) <= reasons.keys()


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 100, 0.5, 0.9, -1])
def test_a_file_that_was_cut_off(path: Path, kept: float) -> None:
    content = saved(small_state())
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: ."):
        read_checkpoint(path)


def with_code() -> bytes:
    return pickle.dumps({"weight": os.system}, protocol=2)


def zip_of_other_files() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "hello")
    return file.getvalue()


def tar_of_other_files() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"))
    return file.getvalue()


OTHER_FILES = {
    "text": lambda: b"hello\n",
    "zeros": lambda: bytes(5000),
    "a plain pickle of code": with_code,
    "code in torch's format": lambda: saved({"weight": os.system}),
    "code in torch's old format": lambda: saved({"weight": os.system}, _use_new_zipfile_serialization=False),
    "another zip": zip_of_other_files,
    "another tar": tar_of_other_files,
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_something_else(path: Path, kind: str) -> None:
    path.write_bytes(OTHER_FILES[kind]())
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: .") as raised:
        read_checkpoint(path)
    assert "weights" not in str(raised.value), "torch's advice to run the code is not passed on"
    if "in torch's" in kind:
        assert "could be run" in str(raised.value)
        assert "system" in str(raised.value)


def test_what_is_no_file(tmp_path: Path, path: Path) -> None:
    with pytest.raises(CheckpointError, match="it is a folder"):
        read_checkpoint(tmp_path)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="it is no file"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        read_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_checkpoint_that_was_packed_again(path: Path, compression: int) -> None:
    state = small_state()
    with zipfile.ZipFile(io.BytesIO(saved(state))) as original, zipfile.ZipFile(path, "w", compression) as again:
        for name in original.namelist():
            again.writestr(name, original.read(name))
    training_runs.assert_identical(read_checkpoint(path, checksums_required=True), state)


def test_files_without_checksums_are_read_unless_they_are_required(path: Path) -> None:
    state = small_state()
    old = saved(state, _use_new_zipfile_serialization=False)
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        unverified = saved(state)
    finally:
        torch.serialization.set_crc32_options(before)
    for content in (old, unverified):
        path.write_bytes(content)
        training_runs.assert_identical(read_checkpoint(path), state)
        with pytest.raises(CheckpointError, match="it has no checksums to verify it by"):
            read_checkpoint(path, checksums_required=True)
