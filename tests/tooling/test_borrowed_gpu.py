"""The steps for a borrowed GPU, run with stand-ins: their limits, their files, and that every command line is taken."""

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import MODULES
from tests.support.kernel_sources import SOURCES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "borrowed_gpu.sh"
STEPS = {
    "works": ["triton.tgz"], "memory": ["triton.tgz"], "tests": ["triton.tgz", "tests.tgz"], "figures": ["triton.tgz"],
    "peers": ["triton.tgz"], "training": ["triton.tgz"], "tuning": ["triton.tgz", "tune.tgz"],
}  # fmt: skip
WITH_PACKAGES = ("peers", "training")

pytestmark = [
    pytest.mark.same_without_gpu,
    pytest.mark.borrowed,
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
    pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU coreutils"),
]

# Each notes its arguments in a line, as they can be typed, and Python the packages that it was given. It answers for
# torch as in test_gpu_check.py.
NOTE = '#!/usr/bin/env bash\nprintf "%q " "$NAME" "$@" >> "$CALLS"; echo >> "$CALLS"\n'
STAND_INS = {
    "python3": f'[[ "$*" == "-m benchmarks gpu-check "* ]] && exec {shlex.quote(sys.executable)} "$@"\n'
    "[[ ${1:-} == - ]] && { cat > /dev/null; printf '9.0\\nNVIDIA H100 (made up)\\n78\\n'; }\n"
    '[[ "$*" == *"benchmarks run"* ]] && mkdir -p "$5"\n'
    '[[ -z ${STAY:-} || "$*" != *"$STAY"* ]] || exec sleep 60\n'
    '[[ -z ${PYTHONPATH:-} ]] || ls "${PYTHONPATH%%:*}" >> "$CALLS.packages"\nexit 0\n',
    "nvidia-smi": "exit 0\n",
    "ncu": "exit 0\n",
    # --kill-after=N LIMIT COMMAND...
    "timeout": 'shift 2\nexec "$@"\n',
}


def packed(archive, folder, name):
    """Make an archive of one file, in a folder."""
    with tarfile.open(archive, "w:gz") as made:
        made.addfile(tarfile.TarInfo(f"{folder}/{name}"))


class Lent:
    """A machine of stand-ins, with archives that each have a kernel."""

    def __init__(self, folder):
        self.calls_file, self.out, self.cache = folder / "calls", folder / "out", folder / "cache"
        programs, carried = folder / "bin", folder / "carried"
        programs.mkdir()
        carried.mkdir()
        for name, body in STAND_INS.items():
            program = programs / name
            program.write_text(NOTE.replace("$NAME", name) + body)
            program.chmod(0o755)
        for name in ("triton.tgz", "tests.tgz", "tune.tgz"):
            kernel = folder / name.removesuffix(".tgz") / "kernel.cubin"
            kernel.parent.mkdir()
            kernel.write_text("")
            paths = {"kernel.cubin": f"/tmp/tc/{kernel.parent.name}/kernel.cubin", "kernel.ptx": "/tmp/tc/other/k.ptx"}
            (kernel.parent / "__grp__kernel.json").write_text(json.dumps({"child_paths": paths}))
            with tarfile.open(carried / name, "w:gz") as archive:
                archive.add(kernel.parent, f"./{kernel.parent.name}")
        packed(carried / "packages.tgz", ".", "mlxtend")
        self.carried = carried
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "OUT", "PYTHONPATH")}
        self.environment = {
            **inherited, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "CALLS": str(self.calls_file),
            "OUT": str(self.out), "CARRIED": str(carried), "TRITON_CACHE_DIR": str(self.cache),
        }  # fmt: skip

    def run(self, *arguments, **settings):
        self.calls_file.write_text("")
        return subprocess.run(
            [str(SCRIPT), *arguments], env={**self.environment, **settings}, capture_output=True, text=True, timeout=120
        )

    @property
    def packages(self):
        file = self.calls_file.with_name("calls.packages")
        return set(file.read_text().split()) if file.exists() else set()

    @property
    def calls(self):
        return [shlex.split(line) for line in self.calls_file.read_text().splitlines()]


@pytest.fixture
def lent(tmp_path):
    return Lent(tmp_path)


def test_the_results_of_two_steps_do_not_mix(lent):
    assert lent.run("works").returncode == 0
    again = lent.run("memory")
    assert again.returncode == 2
    assert "is not empty: one OUT for each step" in again.stderr
    assert not lent.calls


@pytest.mark.parametrize("step", STEPS)
def test_a_step_ends_within_ten_minutes_and_leaves_few_files(lent, step):
    done = lent.run(step)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot" not in done.stderr
    limits = [int(call[2]) for call in lent.calls if call[0] == "timeout"]
    assert limits
    # A build is a part of its own, which an extension that was carried does not need.
    assert sum(limits) <= 600, limits
    files = [path for path in lent.out.rglob("*") if path.is_file()]
    assert 1 <= len(files) <= 8, files
    # ncu writes its reports itself.
    reports = sum(call[:1] == ["ncu"] and "-o" in call for call in lent.calls)
    assert len(files) + reports <= 8
    assert lent.packages == ({"mlxtend"} if step in WITH_PACKAGES else set())
    assert {path.name for path in lent.cache.iterdir()} == {name.removesuffix(".tgz") for name in STEPS[step]}
    for name in STEPS[step]:
        key = name.removesuffix(".tgz")
        listed = json.loads((lent.cache / key / "__grp__kernel.json").read_text())
        assert listed == {
            "child_paths": {
                "kernel.cubin": f"{lent.cache}/{key}/kernel.cubin",
                "kernel.ptx": f"{lent.cache}/other/k.ptx",
            }
        }, "Triton opens what is listed"
    assert re.search(rf"^Triton's cache: {len(STEPS[step])} entries carried", done.stdout, re.MULTILINE)


def test_an_archive_that_was_not_carried_is_named(lent):
    done = lent.run("peers", CARRIED="/no/such/folder")
    assert "/no/such/folder/triton.tgz is not here: kernels that it has are compiled" in done.stdout
    assert "/no/such/folder/packages.tgz is not here: there may be no mnist, and no pytorchcv" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("earlier", [False, True])
def test_an_earlier_reproduction_is_gone_on_with(lent, earlier):
    """What ten minutes did not suffice for comes back, and is put beside the archives."""
    if earlier:
        packed(lent.carried / "training.tgz", "./reproduction", "runs.jsonl")
    assert lent.run("training").returncode == 0
    (call,) = [call for call in lent.calls if "reproduce" in call and call[0] == "python3"]
    assert Path(call[-1]).name == "reproduction"
    assert (lent.out / "training.tgz").exists() == earlier, "the stand-ins measure nothing"
    if earlier:
        with tarfile.open(lent.out / "training.tgz") as archive:
            assert "./reproduction/runs.jsonl" in archive.getnames()


def test_what_was_measured_is_kept_when_a_step_is_ended(lent):
    """The next one goes on from it."""
    packed(lent.carried / "training.tgz", "./reproduction", "runs.jsonl")
    step = subprocess.Popen([str(SCRIPT), "training"], env={**lent.environment, "STAY": "reproduce"})
    try:
        until = time.monotonic() + 60
        while "reproduce" not in (lent.calls_file.read_text() if lent.calls_file.exists() else ""):
            assert time.monotonic() < until
            time.sleep(0.05)
        step.terminate()
        assert step.wait(timeout=30) == 130
    finally:
        step.kill()
    with tarfile.open(lent.out / "training.tgz") as archive:
        assert "./reproduction/runs.jsonl" in archive.getnames()


@pytest.mark.parametrize(("arguments", "said"), [([], "usage"), (["walk"], "usage"), (["works"], "OUT is not set")])
def test_bad_arguments_are_refused(lent, arguments, said):
    done = lent.run(*arguments, OUT="")
    assert done.returncode == 2
    assert said in done.stderr
    assert lent.calls == []


def accepted(module, arguments, tmp_path):
    """Say whether the command line of a module is taken, by the module's own parser."""
    if module == "pytest":
        tiny = tmp_path / "test_tiny.py"
        tiny.write_text("def test_nothing(): pass\n")
        options = [word for word in arguments[:-1] if not word.startswith("tests/")]
        options = [word for word in options if word != "--ignore"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--rootdir", str(ROOT), *options, "--collect-only", str(tiny)],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode in (0, 5), done.stderr + done.stdout  # 5: none was selected
        assert arguments[-1] == "tests"
        return
    if module in ("gcp_kernels", "experiments"):
        command = importlib.import_module(f"{module}.commands.{arguments[0]}")
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        parser.parse_args(arguments[1:])
        return
    if module == "benchmarks":
        module, arguments = MODULES[arguments[0]], arguments[1:]
    importlib.import_module(module).parse(arguments)


def test_every_command_line_is_taken(lent, tmp_path, monkeypatch):
    """Of all modules that a step calls on the GPU, with the options that it gives them."""
    # Devices are looked for by some of the parsers.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    lines = set()
    for step in STEPS:
        shutil.rmtree(lent.out, ignore_errors=True)
        assert lent.run(step).returncode == 0
        for name, *words in lent.calls:
            if name == "ncu" and "-m" in words:
                words = words[words.index("-m") :]
            elif name != "python3" or words[0] != "-m":
                continue
            lines.add(tuple(words[1:]))
    modules = {line[0] if line[0] != "benchmarks" else f"benchmarks {line[1]}" for line in lines}
    assert modules >= {
        "pytest", "gcp_kernels", "experiments", "benchmarks end-to-end", "benchmarks gpu-profile",
        "benchmarks sanitize", "benchmarks run", "benchmarks tune", "benchmarks first-contact",
        "benchmarks extension-file",
    }  # fmt: skip
    for module, *arguments in sorted(lines):
        if module != "pip":
            accepted(module, arguments, tmp_path)


def test_profiles_are_of_the_kernels_that_there_are():
    (pattern,) = re.findall(r"kernels='regex:([^']+)'", SCRIPT.read_text(encoding="utf-8"))
    texts = [path.read_text(encoding="utf-8") for path in (*SOURCES, *(ROOT / "csrc").rglob("*.cuh"))]
    kernels = {name for text in texts for name in re.findall(r"\b(\w+_kernel)\(", text)}
    assert {name for name in kernels if re.search(pattern, name)} == {
        f"isqrt_pool_{form}{way}_kernel"
        for form in ("", "on_chip_", "persistent_", "positions_", "positions_persistent_")
        for way in ("forward", "backward")
    }


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
