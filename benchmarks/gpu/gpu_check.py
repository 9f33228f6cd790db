"""Everything that only a GPU can show, in one run of at most half an hour, into one folder: see docs/gpu.md.

Clocks, power limits and MIG are read and never set; nothing is downloaded. Imports nothing that needs torch: the parts
run with an interpreter that may be another one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .facts import commit, count_cores, pack, printed, record_machine
from .parts import LEAST_BENCHMARK, LIMIT, PARTS, RUN_MINUTES, WITHOUT_GPU, Part, typed

CHECKOUT = Path(__file__).resolve().parents[2]
# What a part that is stopped has for ending in order: processes of tests are waited for, summaries are written.
GRACE = 20

# Asks torch for the GPU: architecture as TORCH_CUDA_ARCH_LIST wants it, name, and GiB of free memory, a line each.
ASK_TORCH = """import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"torch cannot be imported by {sys.executable}: {error}; name another interpreter with --python")
if not torch.cuda.is_available():
    sys.exit(f"no GPU that torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'}) can use")
major, minor = torch.cuda.get_device_capability()
print(f"{major}.{minor}", torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0] >> 30, sep="\\n")
"""


class Interrupted(BaseException):
    """SIGINT or SIGTERM."""


def fail_early(message: str) -> NoReturn:
    print(f"gpu_check: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    listed = [f"  {name:10} " + about.replace("\n", "\n" + " " * 13) for name, about in PARTS.items()]
    made = argparse.ArgumentParser(
        prog="python -m benchmarks gpu-check", usage="%(prog)s [options] [FOLDER]", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Checks and measures gcp_kernels on the GPU of this machine. FOLDER is made for the logs, tables\n"
        "and plots; by default gpu_check_<GPU>_<date>. Its summary.txt has a line for each part: passed, FAILED or\n"
        "skipped, and the seconds. The exit status is 0 when every part passed or was skipped by an option, 1 when\n"
        "one failed, 2 when nothing could begin.\n\nParts, in this order:\n" + "\n".join(listed),
    )  # fmt: skip

    def add(name: str, metavar: str, about: str) -> None:
        # A value that is missing is refused with the others.
        made.add_argument(name, metavar=metavar, nargs="?", const="", help=about)

    add("--only", "A,B", "only these parts; if you like into a FOLDER that is there already and does not have them")
    add("--skip", "A,B", "all parts but these")
    add("--minutes", "N", f"for the whole run ({RUN_MINUTES}); the limit of every part is a share of it")
    add("--processes", "N", "for tests and kernels (one for each core and 6 GiB of the GPU, at most 12); "
        "compute-sanitizer gets eight at most")  # fmt: skip
    made.add_argument("--all-tests", action="store_true", help="also the tests that a GPU adds nothing to: they take "
                      "about an hour, so give --minutes")  # fmt: skip
    add("--pack", "DIR", "at the end, also when interrupted: what matters most, and an archive of everything, in seven "
        "files at most, for a machine from which only a few files can be brought")  # fmt: skip
    add("--python", "FILE", "the interpreter, which has torch (PYTHON if set, else the one that runs this)")
    made.add_argument("--list", action="store_true", help="print the parts, and end")
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    args, rest = parser().parse_known_args(arguments)
    if args.list:
        print(*PARTS, sep="\n", flush=True)
        raise SystemExit(0)
    for name in ("only", "skip", "minutes", "processes", "pack", "python"):
        if getattr(args, name) == "":
            fail_early(f"--{name} needs a value")
    for word in rest:
        if word.startswith("-"):
            fail_early(f"there is no option {word}; --help lists them")
    for name in ("only", "skip"):
        setattr(args, name, parts_in(name, getattr(args, name)))
    for name, default in (("minutes", RUN_MINUTES), ("processes", 0)):
        text = getattr(args, name)
        if text is not None and not re.fullmatch("[1-9][0-9]{0,4}", text):
            fail_early(f"--{name} takes a number from 1, got '{text}'")
        setattr(args, name, int(text or default))
    if len(rest) > 1:
        fail_early(f"one FOLDER, got '{rest[0]}' and '{rest[1]}'")
    args.folder = rest[0] if rest else ""
    return args


def parts_in(option: str, text: str | None) -> list[str]:
    names = text.split(",") if text else []
    for name in names:
        if name not in PARTS:
            fail_early(f"--{option}: there is no part '{name}', but {' '.join(PARTS)}")
    return names


class Check:
    """One run: the GPU and the folders it was given, and what failed by now."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.begun, self.failures, self.part = args, time.monotonic(), 0, "build"
        self.child: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        # Set for a machine without a GPU, this would have the kernels interpreted here too.
        self.environment.pop("TRITON_INTERPRET", None)
        self.find_gpu()
        self.make_folder()

    def skipped_because(self, part: str) -> str:
        """Why a part does not run; empty where it does."""
        if self.args.only and part not in self.args.only:
            return "not in --only"
        return "--skip" if part in self.args.skip else ""

    def find_gpu(self) -> None:
        named = self.args.python or os.environ.get("PYTHON") or sys.executable
        found = shutil.which(named)
        if found is None:
            fail_early(f"there is no '{named}'; name an interpreter with --python")
        self.python = os.path.join(os.getcwd(), found)
        if shutil.which("timeout") is None:
            fail_early("there is no 'timeout' (GNU coreutils)")
        self.architecture, self.gpu, gibibytes = "", "", 0
        asked = subprocess.run(
            [self.python, "-"], input=ASK_TORCH, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        # The last lines: what is before them is a warning.
        answer = asked.stdout.rstrip("\n").split("\n")
        if asked.returncode == 0 and len(answer) >= 3:
            self.architecture, self.gpu, gibibytes = answer[-3], answer[-2], int(answer[-1])
        else:
            wanting = [part for part in PARTS if not self.skipped_because(part) and part not in WITHOUT_GPU]
            if wanting:
                fail_early(f"{answer[-1]}; without one only {' '.join(WITHOUT_GPU)} can run, not {' '.join(wanting)}")
        # A process on the GPU takes about a GiB before its tests do, and some tests take several more.
        self.processes = self.args.processes or max(1, min(count_cores(), gibibytes // 6, 12))

    def make_folder(self) -> None:
        name = self.args.folder or re.sub(
            r"[^A-Za-z0-9_.-]", "-", f"gpu_check_{self.gpu or 'no GPU'}_{time.strftime('%Y-%m-%d')}"
        )
        folder = self.folder = Path(name).absolute()
        if not self.args.only and folder.is_dir() and any(folder.iterdir()):
            fail_early(f"{name} is not empty; results of two runs would mix (--only adds parts to a folder)")
        # Plots can be drawn again from what is there; what was measured is gone once it is measured again.
        for part in self.args.only:
            if part != "plots" and (folder / f"{part}.log").exists():
                fail_early(f"{name} has the part {part} already; name a new FOLDER")
        self.packed = Path(self.args.pack).absolute() if self.args.pack else None
        # A later part of the same run packs all again.
        if self.packed and (self.packed / "everything.tgz").exists() and not (folder / "summary.txt").exists():
            fail_early(f"--pack: {self.args.pack} has the results of another run")
        for path, said in ((folder, name), (self.packed, f"--pack: {self.args.pack}")):
            try:
                if path is not None:
                    path.mkdir(parents=True, exist_ok=True)
            except OSError:
                fail_early(f"{said} cannot be made")
        if self.packed and self.packed.resolve().is_relative_to(folder.resolve()):
            fail_early(f"--pack: {self.packed} is the FOLDER, or in it")

    def seconds(self) -> int:
        return int(time.monotonic() - self.begun)

    def tell(self, line: str, mode: str = "a") -> None:
        """Add a line to the summary, which is on the terminal too."""
        with open(self.folder / "summary.txt", mode, encoding="utf-8") as summary:
            print(line, file=summary)
        print(line, flush=True)

    def report(self, verdict: str, seconds: int | str, remark: str) -> None:
        self.tell(f"{self.part:10} {verdict:8} {seconds:>5} s  {remark}".rstrip())

    def pack_results(self) -> None:
        """After each part: who ends this at once still has what was found by then."""
        if self.packed:
            pack(self.folder, self.packed)

    def limit(self) -> int:
        if self.part != "benchmark":
            return LIMIT[self.part] * self.args.minutes // RUN_MINUTES
        # What is left of the run, less the plots, but never less than shows something. A measurement that has begun
        # ends, and so does the table.
        left = 60 * self.args.minutes - self.seconds() - LIMIT["plots"] // 2
        return max(left, LEAST_BENCHMARK * self.args.minutes // RUN_MINUTES) + 60

    def run_part(self) -> None:
        """Run a part under its limit, into its log."""
        limit, begun, path = self.limit(), self.seconds(), self.folder / f"{self.part}.log"
        with path.open("w", encoding="utf-8") as log:

            def call(*words: str, **settings: str) -> int:
                # What is still running at the limit is asked to end, and GRACE seconds later made to.
                print(f"$ {typed([self.python, *words])}", file=log, flush=True)
                self.child = subprocess.Popen(
                    ["timeout", f"--kill-after={GRACE}", str(limit), self.python, *words], stdin=subprocess.DEVNULL,
                    stdout=log, stderr=subprocess.STDOUT, cwd=CHECKOUT, env={**self.environment, **settings},
                )  # fmt: skip
                status = self.child.wait()
                return status if status >= 0 else 128 - status

            def ask(program: str) -> bool:
                return printed(self.python, "-c", program) is not None

            part = Part(
                limit, self.folder, log, self.python, self.architecture, self.processes, self.args.all_tests, call, ask
            )
            status = getattr(part, self.part)()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        remark = ""
        if status == 0:
            left = sum("not begun within" in line for line in lines)
            if self.part == "benchmark" and left:
                remark = f"{left} rows were left out for time; --minutes has more"
            self.report("passed", self.seconds() - begun, remark)
            return
        self.failures += 1
        remark = f"exit status {status}"
        if status in (124, 137):
            remark = f"stopped at the limit of {limit} s; --minutes raises it"
        self.report("FAILED", self.seconds() - begun, f"{remark}; see {self.part}.log")
        for line in [line for line in lines if line.strip()][-12:]:
            print(f"    | {line}", flush=True)

    def run(self) -> int:
        gpu = self.gpu or "no GPU"
        self.tell(
            f"gpu_check of {commit()}, {time.strftime('%Y-%m-%d %H:%M')}: {gpu}, {self.args.minutes} minutes", "w"
        )
        record_machine(self.folder / "machine.txt", self.python)
        for self.part in PARTS:
            reason = self.skipped_because(self.part)
            if reason:
                self.report("skipped", 0, reason)
            else:
                self.run_part()
                self.pack_results()
        verdict = f"{self.failures} of {len(PARTS)} parts FAILED" if self.failures else "nothing failed"
        self.tell(f"{verdict}, in {self.seconds()} s")
        self.pack_results()
        print(f"written to {self.folder}" + (f", packed into {self.packed}" if self.packed else ""), flush=True)
        return int(self.failures > 0)


def interrupted(number: int, frame: FrameType | None) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    raise Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 0 when none failed, 1 when one did, 2 when nothing could begin, 130 when interrupted."""
    check = Check(parse(arguments))
    # git is asked for this checkout.
    os.chdir(CHECKOUT)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupted)
    try:
        return check.run()
    except Interrupted:
        if check.child and check.child.poll() is None:
            check.child.terminate()
        check.report("FAILED", "-", "interrupted")
        check.pack_results()
        return 130
