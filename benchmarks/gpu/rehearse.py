"""``python -m benchmarks rehearse``: prepare work for a borrowed GPU without network, on a machine without a GPU.

It says what is missing and how to get it, builds the extension and fills Triton's cache with what the steps of
``benchmarks/gpu/borrowed_gpu.sh`` will ask for, packs that, measures it, and runs what can run here. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gcp_kernels.commands import checkout
from gcp_kernels.commands.argument_types import integer_from
from gcp_kernels.commands.atomic_files import write_atomically

from . import extension_file
from . import machine as gpu_machine

CHECKOUT = extension_file.CHECKOUT
MIB = 2**20
# What Triton reads of a kernel that it has compiled; what counts in its stages, as tuning does, reads these too.
LOADED = (".json", ".cubin")
ALSO_READ = (*LOADED, ".ttir", ".ttgir")
# Where the archives are unpacked: Triton's cache names the files of a kernel by their whole paths, and one that was
# moved is compiled again.
UNPACKED = "/tmp/tc"
PACKAGES = "packages.tgz"
GROUP = "__grp__"
# Tests of the steps themselves, of what they call, and of what they rely on.
STEPS = "borrowed"
# Tests that launch Triton's kernels: without those that a GPU adds nothing to, that compile for themselves, or that
# launch others on a GPU.
NOTED = "not slow and not same_without_gpu and not kernels_of_checks"
TUNED = ("persistent-forward", "persistent-backward")


class Failed(Exception):
    """A part is not as it has to be; says what is wrong, and where it can be said how to mend it."""


@dataclass(frozen=True)
class Rehearsal:
    """The interpreter that stands for the GPU machine's, its architecture such as 9.0, and where things go."""

    python: str
    folder: Path
    architecture: str
    jobs: int
    carry_mib: int
    file_mib: int | None

    @property
    def arch(self) -> str:
        return self.architecture.replace(".", "")

    def run(self, *arguments: str, codes: Sequence[int] = (0,), **environment: str) -> str:
        """Run a module of the checkout in that interpreter; return its output, and show it where the module fails."""
        inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [self.python, *arguments], cwd=CHECKOUT, env={**inherited, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if done.returncode not in codes:
            last = "\n    ".join(done.stdout.strip().splitlines()[-12:])
            raise Failed(f"{' '.join(arguments)} ended with {done.returncode}\n    {last}")
        return done.stdout


def machine(plan: Rehearsal) -> str:
    """Check programs of this machine, and versions of the interpreter against the GPU machine's."""
    try:
        versions = gpu_machine.installed(plan.python)
    except RuntimeError as error:
        raise Failed(str(error)) from error
    found = [*gpu_machine.missing_programs(), *gpu_machine.differences(plan.python, versions)]
    if found:
        raise Failed("\n".join(f"{one.what}: {one.remedy}" for one in found))
    return ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "triton", "numpy"))


def extension(plan: Rehearsal) -> str:
    """Build the CUDA extension for the architecture; install nothing."""
    reason = extension_file.why_not(CHECKOUT, plan.architecture, plan.python)
    if reason is not None:
        with tempfile.TemporaryDirectory() as wheels:
            plan.run(
                *("-m", "pip", "wheel", "--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", wheels, "."),
                GCP_KERNELS_CUDA="1",
                TORCH_CUDA_ARCH_LIST=plan.architecture,
            )
            (wheel,) = Path(wheels).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for name in (extension_file.FILE, extension_file.BUILD_INFO):
                    archive.extract(name, CHECKOUT)
    extension_file.note_sources(CHECKOUT)
    if (left := extension_file.why_not(CHECKOUT, plan.architecture, plan.python)) is not None:
        raise Failed(left)
    return "was there" if reason is None else f"built, since {reason}"


def triton(plan: Rehearsal) -> str:
    """Compile kernels of the checks and the self-test, and see that a machine which has them compiles none again."""
    cache = fresh(plan.folder / "cache_triton")
    said = plan.run(*warm(plan), TRITON_CACHE_DIR=str(cache)).strip().splitlines()[-1]
    archive = pack(cache, plan.folder / "triton.tgz", ALSO_READ)
    with tempfile.TemporaryDirectory() as unpacked:
        unpack(archive, Path(unpacked))
        before = set(Path(unpacked).rglob("*"))
        plan.run(*warm(plan), TRITON_CACHE_DIR=unpacked)
        written = {path.parent for path in Path(unpacked).rglob("*") if path.is_file() and path not in before}
    if written:
        raise Failed(
            f"{len(written)} kernels were compiled again beside the archive: keys changed, or files are missing"
        )
    return f"{said}; none again with the archive"


def packages(plan: Rehearsal) -> str:
    """Pack what the GPU machine lacks; into the interpreter that stands for its own nothing is installed."""
    archive = plan.folder / PACKAGES
    archive.unlink(missing_ok=True)  # of other versions, perhaps
    with tempfile.TemporaryDirectory() as target:
        plan.run(
            *("-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"),
            *("--target", target, *gpu_machine.CARRIED),
        )
        plan.run("-B", "-c", gpu_machine.CARRIED_WORKS, PYTHONPATH=target)

        def write(file: BinaryIO) -> None:
            with tarfile.open(fileobj=file, mode="w:gz") as packed:
                packed.add(target, ".")

        write_atomically(archive, write)
    return ", ".join(gpu_machine.CARRIED)


def tests(plan: Rehearsal) -> str:
    """Compile the kernels that the tests launch: a run notes them in which all tests fail, as nothing is computed."""
    cache = fresh(plan.folder / "cache_tests")
    first = plan.folder / "cache_triton"
    if first.is_dir():
        shutil.copytree(first, cache, dirs_exist_ok=True)
    with tempfile.TemporaryDirectory() as notes:
        plan.run(
            *("-m", "pytest", "-p", "benchmarks.codegen.launch_notes", "-p", "no:cacheprovider", "-q", "--tb=no"),
            *("-m", NOTED, "-k", "triton", "-n", str(plan.jobs), "tests"),
            codes=(0, 1),
            NOTES=f"{notes}/kernels",
            NOTES_ARCH=plan.arch,
            PYTHONPATH=str(CHECKOUT),
        )
        files = sorted(str(path) for path in Path(notes).iterdir())
        said = plan.run(*warm(plan), "--notes", *files, TRITON_CACHE_DIR=str(cache)).strip().splitlines()[-1]
    pack(cache, plan.folder / "tests.tgz", LOADED)
    return said


def tuning(plan: Rehearsal) -> str:
    """Compile candidates of the forms that are most used: tiles of 64 rows, as many as there is time to measure."""
    cache = fresh(plan.folder / "cache_tune")
    plan.run(
        *("-m", "benchmarks", "tune", *TUNED, "--precision", "fast", "--only", "block=64,"),
        *("--dry-run", "--arch", plan.arch),
        *("--jobs", str(plan.jobs)),
        TRITON_CACHE_DIR=str(cache),
    )
    pack(cache, plan.folder / "tune.tgz", ALSO_READ)
    return f"{len(os.listdir(cache))} entries"


def without_gpu(plan: Rehearsal) -> str:
    """Run what the steps call, as far as it runs here, in the interpreter that stands for the GPU machine's."""
    plan.run("-m", "gcp_kernels", "info")
    listed = plan.run("-m", "benchmarks", "sanitize", "--list").splitlines()
    collected = plan.run("-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", "tests").splitlines()
    passed = plan.run("-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", STEPS, "tests").strip().splitlines()
    return f"{len(listed)} checks; {collected[-1]}; {passed[-1]}"


def size(plan: Rehearsal) -> str:
    """Give the size of each archive, and of what is carried with it: the extension, and one archive, or two."""
    parts = {name: CHECKOUT / name for name in (extension_file.FILE, extension_file.BUILD_INFO)}
    parts |= {name: plan.folder / name for name in ("triton.tgz", "tests.tgz", "tune.tgz", PACKAGES)}
    sizes = {name: path.stat().st_size / MIB for name, path in parts.items() if path.is_file()}
    if missing := [name for name in ("triton.tgz", extension_file.FILE) if name not in sizes]:
        raise Failed(f"there is no {' and no '.join(missing)}")
    limit = float("inf") if plan.file_mib is None else plan.file_mib
    wrong = [f"{name} is {mib:.1f} MiB, more than {limit:.0f}" for name, mib in sizes.items() if mib > limit]
    built = sum(mib for name, mib in sizes.items() if not name.endswith(".tgz"))
    for name, mib in sizes.items():
        # Packages never go alone.
        names, mib = (f"{name} and triton.tgz", mib + sizes["triton.tgz"]) if name == PACKAGES else (name, mib)
        if name.endswith(".tgz") and built + mib > plan.carry_mib:
            wrong.append(f"{names} and the extension are {built + mib:.1f} MiB, more than {plan.carry_mib}")
    if wrong:
        raise Failed("\n".join(wrong))
    listed = ", ".join(f"{Path(name).name} {mib:.1f}" for name, mib in sizes.items() if name.endswith((".tgz", ".so")))
    return f"MiB: {listed}; at most {plan.carry_mib} with one archive"


ALWAYS: dict[str, Callable[[Rehearsal], str]] = {
    "machine": machine, "extension": extension, "triton": triton, "packages": packages, "without-gpu": without_gpu,
    "size": size,
}  # fmt: skip
LONG = {"tests": tests, "tuning": tuning}
PARTS = ("machine", "extension", "triton", "packages", "tests", "tuning", "without-gpu", "size")


def warm(plan: Rehearsal) -> tuple[str, ...]:
    """Give the command that fills a cache."""
    return ("-m", "benchmarks", "warm-cache", "--arch", plan.arch, "--jobs", str(plan.jobs))


def fresh(folder: Path) -> Path:
    """Make an empty folder: what an earlier commit compiled would be carried for nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def pack(cache: Path, archive: Path, suffixes: Sequence[str]) -> Path:
    """Pack what Triton reads of a cache, for the place where it is unpacked."""

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as packed:
            for path in sorted(cache.rglob("*")):
                if path.suffix not in suffixes:
                    continue
                entry = packed.gettarinfo(path, str(path.relative_to(cache)))
                content = path.read_bytes()
                if path.name.startswith(GROUP):
                    content = located(content, UNPACKED)
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))

    write_atomically(archive, write)
    return archive


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive in a folder that is not the one it was packed for."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    for path in folder.rglob(f"{GROUP}*"):
        path.write_bytes(located(path.read_bytes(), str(folder)))


def located(group: bytes, cache: str) -> bytes:
    """Rewrite the list of a kernel's files for a cache of this path; each file is in the folder of its key."""
    listed = json.loads(group)
    listed["child_paths"] = {
        name: str(Path(cache, *Path(path).parts[-2:])) for name, path in listed["child_paths"].items()
    }
    return json.dumps(listed).encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, going on after one that failed; 0 when nothing is missing, else 1."""
    args = parse(arguments)
    plan = Rehearsal(args.python, args.folder, args.architecture, args.jobs, args.carry_mib, args.file_mib)
    wanted = args.only or [name for name in PARTS if name in ALWAYS or name in args.also]
    plan.folder.mkdir(parents=True, exist_ok=True)
    begun, failures = time.monotonic(), 0
    print(
        f"commit {checkout.note_commit(CHECKOUT)}; for compute capability {plan.architecture}, into {plan.folder}",
        flush=True,
    )
    for name in PARTS:
        if name not in wanted:
            continue
        since = time.monotonic()
        try:
            verdict, remark = "ok", {**ALWAYS, **LONG}[name](plan)
        except Failed as problem:
            verdict, remark = "FAILED", str(problem)
            failures += 1
        first, *others = remark.splitlines()
        print(f"{name:<12} {verdict:<7} {time.monotonic() - since:>5.0f} s  {first}", *others, sep="\n    ", flush=True)
    print(f"{failures} of {len(wanted)} parts failed, in {time.monotonic() - begun:.0f} s")
    always = f"{extension_file.FILE}, {extension_file.BUILD_INFO}, {checkout.NOTED}"
    print(f"to be carried: {always}, and of {plan.folder} what a step names")
    return 1 if failures else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks rehearse", description="Prepare work for a borrowed GPU without network."
    )
    parser.add_argument("--python", default=sys.executable, metavar="FILE", help="of the GPU machine's versions")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / ".gpu", help="for caches and archives (.gpu)")
    parser.add_argument("--architecture", default="9.0", metavar="X.Y", help="of the GPU (9.0)")
    parser.add_argument("--jobs", type=integer_from(1), default=os.cpu_count() or 1, help="compilers at a time (cores)")
    parser.add_argument("--also", nargs="+", choices=tuple(LONG), default=[], help="parts that take minutes more")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="only these parts")
    parser.add_argument("--carry-mib", type=integer_from(1), default=64, help="what may be carried in all (64)")
    parser.add_argument("--file-mib", type=integer_from(1), help="what a file of that may have (no limit)")
    args = parser.parse_args(arguments)
    if not args.architecture.replace(".", "", 1).isdigit() or args.architecture.count(".") != 1:
        parser.error(f"--architecture is major.minor, such as 9.0, got {args.architecture!r}")
    args.folder = args.folder.resolve()
    return args
