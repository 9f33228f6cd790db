"""A copy of a checkout, in which faults are planted and taken out again."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .fault import Fault, PlantingError

# What git ignores, and tests of the built extension need.
BUILT = ("gcp_kernels/_build_info.py", "gcp_kernels/_C*.so")


class Checkout:
    """The files of a checkout below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def copy_to(self, folder: Path) -> "Checkout":
        """Copy what git tracks or would track, and what was built in place."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode:
            raise PlantingError(f"git cannot list the files of {self.root}: {listed.stderr.strip()}")
        built = [path for pattern in BUILT for path in self.root.glob(pattern)]
        for path in [*(self.root / name for name in listed.stdout.split("\0") if name), *built]:
            if path.is_file():  # one that is tracked may have been removed
                target = folder / path.relative_to(self.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
        return Checkout(folder)

    def source(self, fault: Fault) -> Path:
        """Find the file of a fault; one of ``benchmarks`` by its name, in whichever folder it is."""
        path = self.root / fault.file
        if path.is_file():
            return path
        if "/" in fault.file:
            raise PlantingError(f"there is no {fault.file}")
        return self._only_one("benchmarks", fault.file)

    def tests(self, fault: Fault) -> list[str]:
        """Find the test files of a fault by their names, as paths from the root."""
        return [str(self._only_one("tests", name).relative_to(self.root)) for name in fault.tests]

    def _only_one(self, folder: str, name: str) -> Path:
        found = sorted((self.root / folder).rglob(name))
        if len(found) != 1:
            raise PlantingError(f"{name} is {len(found)} times below {folder}")
        return found[0]

    def planted_text(self, fault: Fault) -> str:
        """Return the file of a fault with the fault in it."""
        text = self.source(fault).read_text(encoding="utf-8")
        if (count := text.count(fault.text)) != 1:
            raise PlantingError(f"{fault.file} has {fault.text!r} {count} times, not once")
        return text.replace(fault.text, fault.replacement)

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """Have the fault in the files inside the block."""
        path = self.source(fault)
        before = path.read_bytes()
        path.write_text(self.planted_text(fault), encoding="utf-8")
        try:
            yield
        finally:
            path.write_bytes(before)
