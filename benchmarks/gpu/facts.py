"""What the figures of ``gpu-check`` must be read with, and its packing. Nothing of the machine is set."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

GPU_FIELDS = (
    "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,"
    "mig.mode.current,persistence_mode"
)
FIRST_READ = ("summary.txt", "machine.txt", "kernels.log", "gpu.log", "tests.log", "benchmark/table.txt")


def printed(*command: str, both: bool = False) -> str | None:
    """Return what a command prints; none where it is not there or fails."""
    errors = subprocess.STDOUT if both else subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
    except OSError:
        return None
    return done.stdout.decode(errors="replace").rstrip("\n") if both or done.returncode == 0 else None


def commit() -> str:
    """Find the checkout's commit; without torch, which the package imports, as git knows it."""
    try:
        from gcp_kernels.commands.checkout import commit_of
    except ImportError:
        return printed("git", "describe", "--always", "--dirty") or "unknown"
    return commit_of(Path(__file__).resolve().parents[2])


def count_cores() -> int:
    # nproc itself would heed what is set for the threads of each process.
    return int(printed("env", "-u", "OMP_NUM_THREADS", "-u", "OMP_THREAD_LIMIT", "nproc") or os.cpu_count() or 1)


def record_machine(path: Path, python: str) -> None:
    wanted = re.compile(r"(torch|triton|numpy|pytest|pytest-xdist|matplotlib|pytorchcv) ", re.IGNORECASE)
    packages = (printed(python, "-m", "pip", "list") or "").splitlines()
    compiler = (printed("nvcc", "--version") or "").splitlines()[-2:-1]
    lines = [
        f"commit     {commit()}",
        f"system     {platform.system()} {platform.release()} {platform.machine()}, {count_cores()} cores",
        f"python     {printed(python, '--version', both=True)}, {python}",
        f"nvcc       {''.join(compiler)}",
        *(line for line in packages if wanted.match(line)),
        "",
        printed("nvidia-smi", both=True) or "nvidia-smi is not here",
        "",
        printed("nvidia-smi", "--format=csv", f"--query-gpu={GPU_FIELDS}", both=True) or "",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pack(folder: Path, packed: Path) -> None:
    """Pack what is read first, as it is, and everything in an archive; seven files, in no folder of their own."""
    for name in FIRST_READ:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, packed / name.replace("/", "-"))
    try:
        with tarfile.open(packed / "everything.tgz", "w:gz") as archive:
            archive.add(folder, ".")
    except OSError:
        print(f"{packed}/everything.tgz cannot be written", flush=True)
