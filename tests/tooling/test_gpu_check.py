"""python -m benchmarks gpu-check, with a stand-in for Python: which parts run, how, and that every failure shows."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks.gpu.gpu_check import parser
from benchmarks.gpu.parts import LIMIT, RUN_MINUTES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "gpu_check.sh"
PARTS = (
    "build", "info", "kernels", "selftest", "memcheck", "racecheck", "gpu", "tests", "large", "benchmark", "plots",
)  # fmt: skip

pytestmark = [
    pytest.mark.same_without_gpu,
    pytest.mark.borrowed,
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
    pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU coreutils"),
]

# Answers for torch, which is asked by a program on standard input, and notes every other call in a line; it fails, or
# takes long, where a call has the text in FAIL or SLOW, and has not the modules in MISSING.
STAND_IN = """#!/usr/bin/env bash
if [[ ${1:-} == - ]]; then
  cat > /dev/null
  if [[ -n ${NO_GPU:-} ]]; then echo "a warning" >&2; echo "no GPU that torch can use" >&2; exit 1; fi
  echo "UserWarning: something" >&2
  printf '9.0\\nNVIDIA H200 (made up)\\n%s\\n' "${GIBIBYTES:-140}"
  exit 0
fi
if [[ ${1:-} == -c ]]; then
  [[ $2 == *gpu_check* ]] && exec "$REAL" "$@"
  for module in ${MISSING:-}; do [[ $2 == "import $module" ]] && exit 1; done
  exit 0
fi
if [[ "$*" == *"benchmarks extension-file"* ]]; then
  [[ -n ${PREBUILT:-} ]] && echo "it is taken as it is" && exit 0
  echo "it has to be built" && exit 1
fi
printf '%s\\n' "$*" >> "$CALLS"
interpret=${TRITON_INTERPRET:-unset}
printf 'ARCH=%s CUDA=%s INTERPRET=%s\\n' "${TORCH_CUDA_ARCH_LIST:-}" "${GCP_KERNELS_CUDA:-}" "$interpret"
[[ -n ${PRINT:-} && "$*" == *"benchmarks run"* ]] && printf '%s\\n' "$PRINT"
[[ "$*" == *"benchmarks run"* ]] && mkdir -p "${@: -3:1}"
[[ -n ${SLOW:-} && "$*" == *$SLOW* ]] && sleep 60
if [[ -n ${FAIL:-} && "$*" == *$FAIL* ]]; then echo "what went wrong"; exit 3; fi
exit 0
"""


class Machine:
    """A folder with a space in its name, from which the script is run, and what it did."""

    def __init__(self, folder):
        self.folder = folder / "a folder"
        self.folder.mkdir()
        self.python = self.folder / "stand in"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        self.calls_file = folder / "calls"

    def environment(self, **settings):
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        return {**inherited, "CALLS": str(self.calls_file), "REAL": sys.executable, **settings}

    def run(self, *arguments, python=None, **settings):
        self.calls_file.write_text("")
        named = () if python == "default" else ("--python", str(python or self.python))
        return subprocess.run(
            [str(SCRIPT), *named, *arguments],
            cwd=self.folder, env=self.environment(**settings), capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def wait_for(self, call):
        until = time.monotonic() + 30
        while call not in self.calls_file.read_text() and time.monotonic() < until:
            time.sleep(0.05)

    @property
    def calls(self):
        """What Python was called for, apart from its versions."""
        asked = self.calls_file.read_text().splitlines()
        return [line for line in asked if line != "--version" and not line.startswith("-m pip list")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def verdicts(folder):
    """Read part -> verdict from the summary, which has a line for each part, in order."""
    found = re.findall(r"^(\w+) +(passed|FAILED|skipped) +(\S+) s", (folder / "summary.txt").read_text(), re.MULTILINE)
    assert tuple(part for part, _, _ in found) == PARTS
    assert all(re.fullmatch(r"\d+|-", seconds) for _, _, seconds in found)
    return {part: verdict for part, verdict, _ in found}


def test_everything_passes(machine):
    done = machine.run("out put", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = machine.folder / "out put"
    assert verdicts(folder) == dict.fromkeys(PARTS, "passed")
    assert "nothing failed" in (folder / "summary.txt").read_text()
    assert "NVIDIA H200 (made up)" in (folder / "summary.txt").read_text()
    assert {path.name for path in folder.iterdir()} == {
        *(f"{part}.log" for part in PARTS), "summary.txt", "machine.txt", "benchmark",
    }  # fmt: skip
    for line in (folder / "summary.txt").read_text().splitlines():
        assert line in done.stdout
    build, info, kernels, selftest, memcheck, racecheck, gpu, tests, large, benchmark, plots = machine.calls
    assert build == "-m pip install --verbose --no-index --no-build-isolation --no-deps --editable ."
    assert "ARCH=9.0 CUDA=1 INTERPRET=unset" in (folder / "build.log").read_text()
    assert (info, selftest) == ("-m gcp_kernels info", "-m gcp_kernels selftest")
    wanted = rf"-m benchmarks first-contact --jobs \d+ --seconds 144 --output {re.escape(str(folder))}/kernels\.jsonl"
    assert re.fullmatch(wanted, kernels)
    assert re.fullmatch(r"-m benchmarks sanitize --tool memcheck --jobs [1-8]", memcheck)
    assert re.fullmatch(r"-m benchmarks sanitize --tool racecheck --jobs [1-8]", racecheck)
    assert gpu.startswith("-m pytest ")
    assert gpu.endswith("-m gpu and not slow and not own_part tests")
    assert "--timeout 150" in gpu
    assert tests.startswith("-m pytest ")
    assert "-m not slow and not gpu and not same_without_gpu" in tests
    assert "-k (cuda or triton or gpu) and not torch-cuda" in tests
    assert "-m gpu and slow tests" in large
    assert re.fullmatch(
        rf"-m benchmarks run --set standard --device cuda --output {re.escape(str(folder))}/benchmark --budget \d+",
        benchmark,
    )
    assert plots == f"-m benchmarks plot {folder}/benchmark"
    # The command of every part is in its log, as it can be typed.
    assert r"/stand\ in -m gcp_kernels info" in (folder / "info.log").read_text()


def test_the_folder_is_named_for_the_gpu_and_the_day(machine):
    assert machine.run("--only", "info").returncode == 0
    (folder,) = [path for path in machine.folder.iterdir() if path.is_dir()]
    assert re.fullmatch(r"gpu_check_NVIDIA-H200--made-up-_\d{4}-\d\d-\d\d", folder.name)


@pytest.mark.parametrize("part", PARTS)
def test_every_failure_is_visible_and_stops_nothing(machine, part):
    texts = {
        "build": "pip install", "info": "gcp_kernels info", "kernels": "first-contact", "gpu": "gpu and not slow",
        "tests": "not slow and not gpu", "large": "gpu and slow", "benchmark": "benchmarks run",
        "plots": "benchmarks plot",
    }  # fmt: skip
    done = machine.run("out", FAIL=texts.get(part, part))
    assert done.returncode == 1
    assert verdicts(machine.folder / "out") == {**dict.fromkeys(PARTS, "passed"), part: "FAILED"}
    assert len(machine.calls) == len(PARTS), "all others ran too"
    summary = (machine.folder / "out" / "summary.txt").read_text()
    assert re.search(rf"^{part} +FAILED +\d+ s  exit status 3; see {part}\.log$", summary, re.MULTILINE)
    assert "1 of 11 parts FAILED" in summary
    assert "    | what went wrong" in done.stdout
    assert "what went wrong" in (machine.folder / "out" / f"{part}.log").read_text()


def test_a_part_that_takes_too_long_is_stopped_and_says_so(machine):
    program = (
        "import sys; from benchmarks.gpu import gpu_check; gpu_check.LIMIT['info'] = 1; sys.exit(gpu_check.main())"
    )
    machine.calls_file.write_text("")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, "--python", str(machine.python), "--only", "info,selftest", "out"],
        cwd=machine.folder, env=machine.environment(SLOW="info", PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert time.monotonic() - begun < 30
    assert done.returncode == 1
    assert "stopped at the limit of 1 s; --minutes raises it; see info.log" in done.stdout
    assert verdicts(machine.folder / "out")["selftest"] == "passed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["interrupted", "killed"])
def test_who_ends_it_has_what_was_found_by_then(machine, number):
    """An interrupt is in the summary too; who kills it with all that it has started has the logs of earlier parts."""
    machine.calls_file.write_text("")
    running = subprocess.Popen(
        [str(SCRIPT), "--python", str(machine.python), "--pack", "packed", "out"],
        cwd=machine.folder, env=machine.environment(SLOW="selftest"), stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    machine.wait_for("selftest")
    begun = time.monotonic()
    (os.kill if number == signal.SIGTERM else os.killpg)(running.pid, number)
    running.wait(timeout=30)
    assert time.monotonic() - begun < 10
    if number == signal.SIGTERM:
        assert running.returncode == 130
        summary = (machine.folder / "out" / "summary.txt").read_text()
        assert re.search(r"^selftest +FAILED +- s  interrupted$", summary, re.M)
    with tarfile.open(machine.folder / "packed" / "everything.tgz") as archive:
        assert "./kernels.log" in archive.getnames()


def test_only_and_skip(machine):
    done = machine.run("--only", "info,plots", "out")
    found = verdicts(machine.folder / "out")
    assert found["info"] == "passed"
    assert found["plots"] == "FAILED", "there is no run to draw"
    assert "there is no benchmark in" in done.stdout
    assert [part for part in PARTS if found[part] == "skipped"] == [
        part for part in PARTS if part not in ("info", "plots")
    ]
    assert len(machine.calls) == 1
    done = machine.run("--skip", "build,gpu,tests,large,memcheck,racecheck", "skipping")
    assert done.returncode == 0
    assert list(verdicts(machine.folder / "skipping").values()).count("skipped") == 6
    assert "build      skipped      0 s  --skip" in done.stdout


def test_results_of_two_runs_do_not_mix(machine):
    assert machine.run("--skip", "plots", "out").returncode == 0
    again = machine.run("out")
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    assert machine.calls == []
    for _ in range(2):
        assert machine.run("--only", "plots", "--pack", "packed", "out").returncode == 0, "plots are added"
    assert "has the part info already" in machine.run("--only", "info,plots", "out").stderr
    assert "has the results of another run" in machine.run("--only", "info", "--pack", "packed", "other").stderr


def test_what_is_missing_is_named(machine):
    done = machine.run("out", MISSING="pytest matplotlib pip xdist ninja pytest_timeout")
    found = verdicts(machine.folder / "out")
    assert [part for part in PARTS if found[part] == "FAILED"] == ["build", "gpu", "tests", "large", "plots"]
    for name in ("pytest", "matplotlib", "pip"):
        assert re.search(rf"^    \| {name} is missing: .*/stand in -m pip install {name}$", done.stdout, re.MULTILINE)
    done = machine.run("slower", MISSING="xdist ninja pytest_timeout")
    assert done.returncode == 0
    assert "one after another" in (machine.folder / "slower" / "tests.log").read_text()
    assert "one after another" in (machine.folder / "slower" / "build.log").read_text()
    gpu, tests = machine.calls[6:8]
    for call in (gpu, tests):
        assert " -n " not in call
        assert "--timeout" not in call


def test_measurements_that_were_left_out_are_in_the_summary(machine):
    done = machine.run("--only", "benchmark", "out", PRINT="x not timed  not begun within the 60 s of --budget")
    assert done.returncode == 0
    said = r"^benchmark +passed +\d+ s  1 rows were left out for time; --minutes has more$"
    assert re.search(said, done.stdout, re.M)


def test_minutes_and_processes_are_passed_on(machine):
    machine.run("--only", "benchmark,tests", "--minutes", "60", "--processes", "3", "out")
    tests, benchmark = machine.calls
    assert "-n 3 --dist worksteal" in tests
    budget = int(benchmark.split()[-1])
    assert 3000 < budget <= 3600


def test_all_tests_leaves_none_out(machine):
    machine.run("--only", "tests,large", "--all-tests", "out")
    tests, large = machine.calls
    assert "--ignore" not in tests
    assert "-k" not in tests.split()
    assert "-m not gpu" in tests
    assert "not slow" not in tests
    assert "-m gpu and slow" in large
    assert "left out" not in (machine.folder / "out" / "tests.log").read_text()


def test_the_log_says_which_tests_are_left_out(machine):
    machine.run("--only", "tests", "out")
    log = (machine.folder / "out" / "tests.log").read_text()
    assert "left out, because a GPU adds nothing to them (--all-tests runs them)" in log
    (call,) = machine.calls
    assert "-m not slow and not gpu and not same_without_gpu -k " in call


def test_there_is_a_process_for_each_core_and_six_gibibytes_whatever_threads_each_has(machine):
    machine.run("--only", "kernels", "out", OMP_NUM_THREADS="1", OMP_THREAD_LIMIT="1")
    cores = len(os.sched_getaffinity(0))
    assert f"--jobs {min(cores, 12)} " in machine.calls[0]
    assert f", {cores} cores" in (machine.folder / "out" / "machine.txt").read_text()
    nproc, path = machine.folder / "nproc", f"{machine.folder}{os.pathsep}{os.environ['PATH']}"
    nproc.touch(0o755)
    for cores, gibibytes, processes in ((16, 79, 12), (4, 79, 4), (16, 24, 4), (16, 3, 1)):
        nproc.write_text(f"#!/bin/sh\necho {cores}\n")
        machine.run("--only", "tests", f"{cores} {gibibytes}", GIBIBYTES=str(gibibytes), PATH=path)
        assert f"-n {processes} " in machine.calls[0]


def test_the_limits_add_up_to_the_minutes_that_are_promised():
    minutes = RUN_MINUTES
    assert tuple(LIMIT) == PARTS
    assert sum(LIMIT.values()) == 60 * minutes
    assert f"for the whole run ({minutes})" in " ".join(parser().format_help().split())
    assert f"at most {minutes} minutes" in (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert f"at most {minutes} minutes" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for path in (SCRIPT, ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert "eight minutes" not in path.read_text(encoding="utf-8"), path.name


def test_an_extension_that_is_there_is_not_built(machine):
    done = machine.run("--only", "build", "out", PREBUILT="1")
    assert (done.returncode, machine.calls) == (0, [])
    assert "it is taken as it is" in (machine.folder / "out" / "build.log").read_text()


def test_what_is_packed_is_a_few_files_with_everything_in_one(machine):
    table = "benchmarks run"
    assert machine.run("--pack", "brought back", "out", FAIL=table).returncode == 1
    packed = machine.folder / "brought back"
    assert len(list(packed.rglob("*"))) < 8, "few enough to be sent back one by one"
    names = {path.name for path in packed.iterdir()}
    assert names >= {"summary.txt", "machine.txt", "kernels.log", "gpu.log", "tests.log", "everything.tgz"}
    with tarfile.open(packed / "everything.tgz") as archive:
        inside = {Path(name).name for name in archive.getnames()}
    assert inside >= {f"{part}.log" for part in PARTS} | {"summary.txt", "benchmark"}
    refused = machine.run("--pack", "other/within", "other")
    assert refused.returncode == 2
    assert "is the FOLDER, or in it" in refused.stderr


@pytest.mark.parametrize("named", ["default", "stand in"])
def test_without_a_gpu_it_says_so_at_once(machine, named):
    python, settings = None, {}
    if named == "default":
        real = machine.folder / "bin"
        real.mkdir()
        (real / "python3").symlink_to(machine.python)
        python, settings = "default", {"PATH": f"{real}{os.pathsep}{os.environ['PATH']}"}
    done = machine.run("out", python=python, NO_GPU="1", **settings)
    assert done.returncode == 2
    assert "no GPU that torch can use; without one only info selftest plots can run, not build" in done.stderr
    assert not (machine.folder / "out").exists()
    assert machine.run("--only", "info,selftest", "out", python=python, NO_GPU="1", **settings).returncode == 0
    assert len(machine.calls) == 2


def test_this_interpreter_is_asked_for_a_gpu(machine):
    """With the real program that asks: the answer is either a GPU or the reason."""
    import torch

    done = machine.run("--only", "plots", "out", python=sys.executable)
    assert done.returncode == 1, "no run to draw"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    assert name in done.stdout
    if not torch.cuda.is_available():
        done = machine.run("--only", "build", "other", python=sys.executable)
        assert re.search(r"no GPU that torch \S+ \(CUDA .*\) can use", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "build,walk"], "there is no part 'walk', but build info"),
        (["--skip", "walk"], "--skip: there is no part 'walk'"),
        (["--only"], "--only needs a value"),
        (["--minutes", "0"], "--minutes takes a number from 1, got '0'"),
        (["--processes", "many"], "--processes takes a number from 1, got 'many'"),
        (["--pack"], "--pack needs a value"),
        (["--fast"], "there is no option --fast"),
        (["one", "two"], "one FOLDER, got 'one' and 'two'"),
        (["--python", "/no/such/python"], "there is no '/no/such/python'"),
    ],
)
def test_bad_arguments_are_refused(machine, arguments, said):
    done = machine.run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert machine.calls == []


def test_help_lists_the_parts(machine):
    assert machine.run("--list").stdout.split() == list(PARTS)
    done = machine.run("--help")
    assert done.returncode == 0
    assert all(f"\n  {part} " in done.stdout for part in PARTS)


def test_nothing_of_the_gpu_is_set():
    texts = [(SCRIPT.parent / name).read_text() for name in ("facts.py", "gpu_check.py", "gpu_check.sh", "parts.py")]
    calls = re.findall(r"nvidia-smi\b(.*)", "\n".join(texts))
    assert len(calls) >= 2
    assert set(re.findall(r"""(?<=[ "])-[-\w]+""", "\n".join(calls))) <= {"--format", "--query-gpu"}


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
