"""What `make` sets up: torchvision and timm that can be imported or are not there, from an interpreter that will do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import model_libraries, torchvision_stand_in

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
# As what is installed for real: each wants the torch that it was built for, and does not load beside another build.
TORCH = "build = {!r}"
TORCHVISION = """import torch
if torch.build != "cuda":
    raise RuntimeError("operator torchvision::nms does not exist")
"""


def wheel(folder: Path, name: str, version: str, source: str, *requires: str) -> None:
    """Make a wheel of one module, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    wanted = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{wanted}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


class Environment:
    """A virtual environment whose pip knows a few made-up wheels and no index."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.home = folder / "wheels", folder / "venv"
        self.wheels.mkdir()
        for build in ("cpu", "cuda"):
            wheel(self.wheels, "torch", f"2.13.0+{build}", TORCH.format(build))
        wheel(self.wheels, "torch", "2.99.0", TORCH.format("cuda"))
        # The oldest release names no torch, as torchvision's first ones do.
        for version, wanted in (("0.2.2", "torch"), ("0.28.0", "torch==2.13.0"), ("0.29.0", "torch==2.14.0")):
            wheel(self.wheels, "torchvision", version, TORCHVISION, wanted)
        wheel(self.wheels, "huggingface_hub", "1.0", "")
        wheel(self.wheels, "timm", "1.0.31", "import torchvision, huggingface_hub\n", "torchvision", "huggingface_hub")
        venv.create(self.home, with_pip=True, symlinks=True)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        only = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        return subprocess.run(
            [str(self.home / "bin" / "python"), *arguments],
            cwd=self.home, env={**kept, **only}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def set_up(self, torch: str) -> subprocess.CompletedProcess[str]:
        installed = self.python("-m", "pip", "install", "--quiet", torch)
        assert installed.returncode == 0, installed.stderr
        return self.python(str(ROOT / "tests" / "support" / "model_libraries.py"), torch)

    def importing(self, *names: str) -> str:
        return self.python("-c", f"import {', '.join(names)}").stderr

    @property
    def for_tests(self) -> list[str]:
        folder = self.home / "torchvision-python"
        return sorted(path.name for path in folder.glob("*.py")) if folder.is_dir() else []


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.mark.thorough
def test_what_loads_is_kept_and_what_does_not_is_left_out(environment):
    done = environment.set_up("torch==2.13.0+cuda")
    assert (done.returncode, done.stderr) == (0, "")
    assert environment.importing("torchvision", "timm") == ""
    assert environment.for_tests == []

    # Twice: the second time finds what the first one left, as after an interruption.
    for _ in range(2):
        done = environment.set_up("torch==2.13.0+cpu")
        assert done.returncode == 0, done.stderr
        assert "torchvision and timm are left out" in done.stderr
        assert "beside torch==2.13.0+cpu" in done.stderr
        assert "RuntimeError: operator torchvision::nms does not exist" in done.stderr
        assert 'make demo TORCH="torch --index-url' in done.stderr
        for name in ("torchvision", "timm"):
            assert f"ModuleNotFoundError: No module named '{name}'" in environment.importing(name)
        assert environment.importing("huggingface_hub") == "", "what timm needs is there for its tests"
        assert environment.for_tests == ["timm.py", "torchvision.py"]

    done = environment.set_up("torch==2.99.0")
    assert done.returncode == 0
    assert "pip finds no torchvision>=0.25 for torch==2.99.0" in done.stderr
    assert "No module named 'torchvision'" in environment.importing("torchvision")
    assert environment.for_tests == []

    # Not that there is none, but that pip failed for another reason: nothing is said to be left out.
    (environment.wheels / "torchvision-0.28.0-py3-none-any.whl").write_bytes(b"a download that broke off")
    done = environment.set_up("torch==2.13.0+cuda")
    assert done.returncode != 0
    assert "left out" not in done.stderr


def test_an_index_that_cannot_be_reached_is_a_failure_and_no_reason_to_leave_anything_out(monkeypatch, capsys):
    """pip then says that there is no distribution, as of an index that has none."""
    said = (
        "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError'\n"
        "ERROR: Could not find a version that satisfies the requirement torchvision>=0.25 (from versions: none)\n"
        "ERROR: No matching distribution found for torchvision>=0.25\n"
    )
    monkeypatch.setattr(model_libraries, "pip", lambda *arguments: (1, said))
    monkeypatch.setattr(model_libraries, "FOR_TESTS", Path("not there"))
    assert model_libraries.main(["torch"]) == 1
    assert "left out" not in capsys.readouterr().err
    said = said.partition("\n")[2]
    assert model_libraries.main(["torch"]) == 0
    assert "left out" in capsys.readouterr().err


def test_tests_look_into_their_folder_only_where_a_user_has_no_torchvision(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision_stand_in, "FOR_TESTS", tmp_path)
    monkeypatch.setattr(sys, "path", ["first"])
    for spec, expected in (("found", ["first"]), (None, ["first", str(tmp_path)])):
        monkeypatch.setattr(torchvision_stand_in, "find_spec", lambda name, spec=spec: spec)
        torchvision_stand_in.look_where_tests_may()
        assert sys.path == expected


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("pretence", "message"),
    [
        ("sys.version_info = (3, 9, 18)", "error: gcp_kernels needs Python 3.10 or newer"),
        ("sys.modules['ensurepip'] = None", "cannot make virtual environments; on Debian and Ubuntu: apt install"),
        ("sys.modules['venv'] = None", "cannot make virtual environments; on Debian and Ubuntu: apt install"),
    ],
    ids=["too old", "without ensurepip", "without venv"],
)
def test_make_says_at_once_that_an_interpreter_will_not_do(tmp_path, pretence, message):
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; {pretence}; exec(sys.argv[1])" "$2"\n')
    interpreter.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={interpreter}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_has_python_keep_what_it_compiles():
    """pip has compiled nothing: otherwise each of the processes that tests start compiles torch, for seconds."""
    (said,) = subprocess.check_output(
        ["make", "--no-print-directory", "--eval", 'said: ; @echo "[$$PYTHONDONTWRITEBYTECODE]"', "said"],
        cwd=ROOT, text=True, timeout=60, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ).splitlines()  # fmt: skip
    assert said == "[]"


def test_what_is_in_the_folder_for_tests_is_found_by_tests():
    """Here conftest.py has looked there. Else the tests of models would be skipped, and nobody would notice."""
    if not torchvision_stand_in.FOR_TESTS.is_dir():
        pytest.skip("there is no such folder in this environment")
    assert find_spec("torchvision") is not None
