"""The folder for the ``kernels`` library: that library loads it, and its operators are those of the reference."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gcp_kernels
from release.hub_kernels import cuda_variant, lay_out, main
from tests.support import oracle
from tests.support.extension import built
from tests.support.inputs import relu_features
from tests.support.tolerances import assert_promise_kept

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
USER = ROOT / "tests" / "support" / "hub_kernel_user.py"
LOADER = pytest.mark.skipif(importlib.util.find_spec("kernels") is None, reason="needs kernels (pip install kernels)")
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
DETAIL = "torch 2.13.0, nvcc 13.0, for 8.0;9.0+PTX"
NOTES = "VERSION = {!r}\nCUDA_EXTENSION = {}\nDETAIL = {!r}\nLIBRARY = 'gcp_kernels_cuda'\n"


def package_in(folder: Path, *, extension: bool) -> Path:
    """Copy the package of this checkout, as setup.py leaves it."""
    package = folder / "gcp_kernels"
    left_out = shutil.ignore_patterns("__pycache__", "_build_info.py", *([] if extension else ["*.so"]))
    shutil.copytree(ROOT / "gcp_kernels", package, ignore=left_out)
    (package / "_build_info.py").write_text(NOTES.format(VERSION, extension, DETAIL if extension else "not wanted"))
    return package


def use(tmp_path: Path, folder: Path, *, cuda: str | None = None, installed_first: bool = False) -> dict:
    """Load the kernel in a process of its own, and check every value and gradient that the process has computed."""
    x = relu_features(2, 8, 25)
    x = x.reshape(2, 8, 5, 5).float()
    grad = torch.randn(2, 36, generator=torch.Generator().manual_seed(1))
    plain = cuda is None
    asked = {
        "x": x, "grad": grad, "cuda": cuda, "checkout": str(ROOT), "installed_first": installed_first,
        "triton": plain and importlib.util.find_spec("triton") is not None, "layer": plain,
    }  # fmt: skip
    torch.save(asked, tmp_path / "asked")
    command = [sys.executable, str(USER), str(folder), str(tmp_path / "asked"), str(tmp_path / "found")]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TRITON_INTERPRET": "1",
    }  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found")
    exact = x.double().flatten(2)
    value = oracle.triangle(oracle.isqrt_pool(exact, 5))
    gradient = oracle.isqrt_pool_grad(exact, 5, oracle.triangle_grad(grad.double(), 8)).reshape(x.shape)
    for who in ("kernel", "kernel in Triton", "installed"):
        if who in found:
            assert_promise_kept(found[who][0], value, "high", who)
            assert_promise_kept(found[who][1], gradient, "high", f"{who}, gradient")
    if plain:
        three = oracle.triangle(oracle.isqrt_pool(exact, 3))
        for who in ("layer", "compiled layer"):
            assert_promise_kept(found[who], three, "high", who)
    assert found["name"] == found["id"]
    assert found["version"] == VERSION
    assert found["public"] == sorted([*gcp_kernels.__all__, "layers"])
    assert {"isqrt_pool", "isqrt_pool_backward"} <= set(found["operators"])
    return found


@LOADER
def test_it_loads_without_and_beside_the_installed_package(tmp_path):
    folder = tmp_path / "kernel"
    assert lay_out(package_in(tmp_path, extension=False), folder) == [folder / "build" / "torch-universal"]
    found = use(tmp_path, folder)
    assert found["variant"] == "torch-universal"
    assert found["extension of kernel"] == ("extension not built: the variant torch-universal has no CUDA code", None)
    assert f"# gcp-kernels {VERSION}" in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@LOADER
@built
def test_the_cuda_variant_is_taken_with_its_cuda_and_one_extension_of_a_name_in_a_process(tmp_path):
    folder = tmp_path / "kernel"
    cuda, _ = cuda_variant(DETAIL)
    lay_out(package_in(tmp_path, extension=True), folder)
    refused = "extension not loaded: another gcp_kernels in this process has registered torch.ops.gcp_kernels_cuda"
    loaded = (None, torch.ops.gcp_kernels_cuda.pooling_error(64, 2, 0))
    # The library takes a variant of the same CUDA, and of an older minor version.
    found = use(tmp_path, folder, cuda="13.1")
    assert found["variant"] == cuda
    assert found["extension of kernel"] == loaded
    assert found["extension of installed"][0].startswith(refused)
    found = use(tmp_path, folder, cuda="13.0", installed_first=True)
    assert found["extension of installed"] == loaded
    assert found["extension of kernel"][0].startswith(refused)


def test_the_variant_says_cuda_and_architectures():
    name, backend = cuda_variant("torch 2.11.0+cu130, nvcc 13.2, for 8.0;9.0+PTX 12.0")
    assert re.fullmatch(r"torch-stable-abi210-cu132-\w+-linux", name)
    assert backend == {"type": "cuda", "archs": ["8.0", "9.0+PTX", "12.0"]}
    # What setup.py asks torch for.
    assert "-DTORCH_TARGET_VERSION=0x020a0000" in (ROOT / "setup.py").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"for which CUDA and architectures it is: 'nvcc of unknown version'"):
        cuda_variant("nvcc of unknown version")


def test_what_cannot_be_laid_out_is_refused(tmp_path, capsys):
    package = tmp_path / "gcp_kernels"
    package.mkdir()
    with pytest.raises(ValueError, match=r"was never built: it has no _build_info\.py"):
        lay_out(package, tmp_path / "kernel")
    (package / "_build_info.py").write_text("CUDA_EXTENSION = False\nDETAIL = ''\n")
    with pytest.raises(ValueError, match="is of an older build"):
        lay_out(package, tmp_path / "kernel")
    assert main([str(package)]) == 1
    assert f"error: {package} must be an empty folder, or not exist" in capsys.readouterr().err
