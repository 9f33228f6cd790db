"""The parts of ``gpu-check``: what each runs, and the seconds that it may take. Imports nothing that needs torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

# What a part is for, in the order in which they run.
PARTS = {
    "build": "the extension, in place, for this GPU's architecture alone; one that is there and newer than its\n"
    "sources is taken as it is",
    "info": "python -m gcp_kernels info: which backend serves what, and why not",
    "kernels": "python -m benchmarks first-contact: every kernel in every form once, in processes that may crash",
    "selftest": "python -m gcp_kernels selftest: every backend against the float64 reference",
    "memcheck": "python -m benchmarks sanitize: every kernel on few samples under compute-sanitizer's memcheck",
    "racecheck": "the same under its racecheck",
    "gpu": "the tests that need a GPU",
    "tests": "the others that a GPU adds something to (--all-tests: every one)",
    "large": "tests of tensors beyond 2^31 elements, one at a time",
    "benchmark": "python -m benchmarks run, the standard set, in the time that is left",
    "plots": "python -m benchmarks plot",
}
# Parts that a machine without a GPU can run.
WITHOUT_GPU = ("info", "selftest", "plots")

# Seconds that a part may take; together they are the whole run. An H100 with 16 cores, and a cache of Triton's kernels
# that was carried along, took 27 s for kernels, 17 s for selftest and 29 s for memcheck; of racecheck's eight processes
# two had ended after 144 s. What is not used is left to the benchmark, which begins no measurement after its share.
LIMIT = {
    "build": 200, "info": 40, "kernels": 160, "selftest": 120, "memcheck": 120, "racecheck": 420, "gpu": 120,
    "tests": 300, "large": 60, "benchmark": 230, "plots": 30,
}  # fmt: skip
RUN_MINUTES = 30
LEAST_BENCHMARK = 60

# Tests that show the same without a GPU are marked so: continuous integration runs them.
# Of the others, what runs on a GPU or compiles for one: by the parameters and files that tests are named for. Kernels
# of torch itself are their own affair.
WITH_A_GAIN = "(cuda or triton or gpu) and not torch-cuda"


@dataclass
class Part:
    """What a part is run with: ``call`` runs Python in the log and under the limit, ``ask`` without either."""

    limit: int
    folder: Path
    log: TextIO
    python: str
    architecture: str
    processes: int
    all_tests: bool
    call: Callable[..., int]
    ask: Callable[[str], bool]

    def say(self, text: str) -> None:
        print(text, file=self.log, flush=True)

    def has(self, module: str, package: str) -> bool:
        """Whether the interpreter has a module; says what to install where it has not."""
        if self.ask(f"import {module}"):
            return True
        self.say(f"{module} is missing: {self.python} -m pip install {package}")
        return False

    def build(self) -> int:
        if self.call("-m", "benchmarks", "extension-file", self.architecture) == 0:
            return 0
        whole = self.has("pip", "pip")
        if not self.ask('import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)'):
            self.say(f'setuptools 77 or newer is missing: {self.python} -m pip install "setuptools>=77"')
            whole = False
        if not whole:
            return 1
        if not self.has("ninja", "ninja"):
            self.say("without it the sources are compiled one after another")
        # The build runs in this environment, with the torch that is here, and pip looks nowhere else.
        return self.call(
            "-m", "pip", "install", "--verbose", "--no-index", "--no-build-isolation", "--no-deps", "--editable", ".",
            GCP_KERNELS_CUDA="1", TORCH_CUDA_ARCH_LIST=self.architecture, PIP_DISABLE_PIP_VERSION_CHECK="1",
        )  # fmt: skip

    def info(self) -> int:
        return self.call("-m", "gcp_kernels", "info")

    def selftest(self) -> int:
        return self.call("-m", "gcp_kernels", "selftest")

    def kernels(self) -> int:
        # It ends by itself before the limit, and names what was not begun.
        options = ("--jobs", str(self.processes), "--seconds", str(self.limit * 9 // 10))
        return self.call("-m", "benchmarks", "first-contact", *options, "--output", f"{self.folder}/kernels.jsonl")

    def memcheck(self) -> int:
        return self.call("-m", "benchmarks", "sanitize", "--tool", "memcheck", "--jobs", str(min(self.processes, 8)))

    def racecheck(self) -> int:
        return self.call("-m", "benchmarks", "sanitize", "--tool", "racecheck", "--jobs", str(min(self.processes, 8)))

    def pytest(self, *selected: str) -> int:
        """Run pytest, in as many processes as there are for it."""
        options = ["-q", "-ra", "-p", "no:cacheprovider", "--durations=15"]
        if not self.has("pytest", "pytest"):
            return 1
        if self.has("pytest_timeout", "pytest-timeout"):
            # Of a test that hangs the stacks are printed, and the others go on.
            options += ["--timeout", "150", "--timeout-method", "thread"]
        else:
            self.say("without it a test that hangs takes the time of all others")
        if self.has("xdist", "pytest-xdist"):
            # Neighbours share compiled kernels, and most stay together.
            options += ["-n", str(self.processes), "--dist", "worksteal"]
        else:
            self.say("without it the tests run one after another")
        return self.call("-m", "pytest", *options, *selected, "tests")

    def gpu(self) -> int:
        # Without a search for configurations, and without the checks, which were parts of their own.
        return self.pytest("--junit-xml", f"{self.folder}/gpu.xml", "-m", "gpu and not slow and not own_part")

    def tests(self) -> int:
        selected = ["-m", "not gpu and not mutation"]
        if not self.all_tests:
            self.say(
                "left out, because a GPU adds nothing to them (--all-tests runs them): tests that are marked "
                "same_without_gpu,\nand tests not named for a GPU or Triton"
            )
            selected = ["-m", "not slow and not gpu and not same_without_gpu", "-k", WITH_A_GAIN]
        self.say("tests that need a GPU are the part 'gpu', those of tensors beyond 2^31 elements the part 'large'")
        return self.pytest("--junit-xml", f"{self.folder}/tests.xml", *selected)

    def large(self) -> int:
        if not self.has("pytest", "pytest"):
            return 1
        return self.call(
            "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--durations=9",
            "--junit-xml", f"{self.folder}/large.xml", "-m", "gpu and slow", "tests",
        )  # fmt: skip

    def benchmark(self) -> int:
        # The limit has a minute for what has begun.
        return self.call(
            "-m", "benchmarks", "run", "--set", "standard", "--device", "cuda",
            "--output", f"{self.folder}/benchmark", "--budget", str(self.limit - 60),
        )  # fmt: skip

    def plots(self) -> int:
        if not self.has("matplotlib", "matplotlib"):
            return 1
        if not (self.folder / "benchmark").is_dir():
            self.say(f"there is no benchmark in {self.folder} to draw")
            return 1
        return self.call("-m", "benchmarks", "plot", f"{self.folder}/benchmark")


def typed(words: list[str]) -> str:
    """Write a command as it can be typed."""
    return " ".join(re.sub(r"[^\w@%+=:./-]", r"\\\g<0>", word) or "''" for word in words)
