"""The file that runs are kept in: an interrupted experiment goes on where it was."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# What every experiment calls it: a folder that has one may be gone on with.
RUNS = "runs.jsonl"
BEGINNING = b'{"settings": '


class OtherRunsError(ValueError):
    """A file has runs of other settings, or is no such file; the message says which and what differs."""


class Log:
    """What runs gave, by key: each a line of JSON, behind one with the settings.

    A line that was cut off where a process was killed is dropped, and its run missing.

    Args:
        path: of a file that may be there.
        settings: all that the runs depend on, by name, in plain values. A file with others is refused and kept.
        made: what is kept with every run that is added, and decides nothing: by whom, when.

    Raises:
        OtherRunsError: see the class.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._made_now = dict(made or {})
        self._runs: dict[str, dict[str, Any]] = {}
        self._made: dict[str, dict[str, Any]] = {}
        # As JSON gives them back: tuples are lists then.
        asked: dict[str, Any] = json.loads(json.dumps(settings))
        *whole, cut_off = path.read_bytes().split(b"\n") if path.exists() else [b""]
        if not whole:
            # Empty, or killed in its first line; anything else is somebody's.
            if not BEGINNING.startswith(cut_off[: len(BEGINNING)]):
                raise OtherRunsError(f"{path} is not what this version writes")
            self._write("w", {"settings": asked})
            return
        try:
            first, *lines = (json.loads(line) for line in whole)
            found: dict[str, Any] = dict(first["settings"])
            self._runs = {line["key"]: dict(line["run"]) for line in lines}
            self._made = {line["key"]: dict(line["made"]) for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise OtherRunsError(f"{path} is damaged, or not what this version writes: {error!r}") from error
        if different := [
            f"{name} is {found.get(name)!r} there, not {asked.get(name)!r}"
            for name in sorted(found.keys() | asked.keys())
            if found.get(name) != asked.get(name)
        ]:
            raise OtherRunsError(
                f"{path} has runs of other settings: {'; '.join(different)}. Give the same again, or another folder"
            )
        if cut_off:
            os.truncate(path, sum(len(line) + 1 for line in whole))

    def __contains__(self, key: object) -> bool:
        return key in self._runs

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._runs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def made(self, key: str) -> dict[str, Any]:
        """Return by whom a run was made, and in how many ``seconds``."""
        return self._made[key]

    def add(self, key: str, run: Mapping[str, Any], seconds: float) -> None:
        """Keep what a run gave, in plain values, and the time that it took; when this returns it is on the disk."""
        line = {"key": key, "run": run, "made": {**self._made_now, "seconds": seconds}}
        self._write("a", line)
        kept = json.loads(json.dumps(line))
        self._runs[key], self._made[key] = kept["run"], kept["made"]

    def _write(self, mode: str, line: Mapping[str, Any]) -> None:
        with self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
