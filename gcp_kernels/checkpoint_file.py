"""Files that ``torch.save`` wrote: verified by their checksums, then read as data and never as code."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

ZIP_MAGIC = b"PK\x03\x04"
DIRECTORY_ATTRIBUTE = 0x10
PIECE = 1 << 20


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, is something else, or does not fit; the message says which, and names what is wrong."""


def read_checkpoint(path: str | os.PathLike[str], *, checksums_required: bool = False) -> Any:
    """Read what ``torch.save`` put into the file, onto the CPU, if every byte of it is what was written.

    ``torch.load`` ignores the checksums (CRC-32) that ``torch.save`` writes with every tensor, and so would load a bit
    that a disk or a transfer flipped as another weight. Here they are compared first. Files from before
    torch 1.6, and those written after ``torch.serialization.set_crc32_options(False)``, have none.

    Args:
        path: the file.
        checksums_required: whether a file without checksums is refused.

    Raises:
        OSError: the file is not there or must not be read.
        CheckpointError: it is damaged or cut off, no file, nothing that ``torch.save`` wrote, or holds objects other
            than tensors and plain containers.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is {'a folder' if path.is_dir() else 'no file'}"
        )
    with path.open("rb") as file:
        try:
            if not _verified(file) and checksums_required:
                raise zipfile.BadZipFile("it has no checksums to verify it by")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the readers of zip files and pickles make of damaged bytes
            raise CheckpointError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error


def _verified(file: BinaryIO) -> bool:
    """Compare the checksums, and raise if one is wrong; return whether the file has any."""
    if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
        return False
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if not any(record.CRC for record in records):
            return False
        for record in records:
            # No checksum covers this flag. torch's reader takes the entry for an empty directory, and leaves the tensor
            # as its memory was.
            if record.file_size and record.external_attr & DIRECTORY_ATTRIBUTE:
                raise zipfile.BadZipFile(f"the entry of {record.filename!r} is damaged")
            with archive.open(record) as content:
                while content.read(PIECE):
                    pass
    return True


def _reason(error: Exception) -> str:
    """Return the reason in one line; where torch refuses to run code, name that code and leave out how to allow it."""
    text = str(error).rpartition("WeightsUnpickler error: ")[2]
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {refused[1]}, and nothing but tensors and plain containers is read, for code could be run"
    if "legacy .tar format" in text:
        return "it is a tar archive, or nothing but zeros: no format that can be read without running code"
    return next(iter(text.splitlines()), "") or type(error).__name__
