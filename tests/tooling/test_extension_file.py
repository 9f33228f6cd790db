"""benchmarks.gpu.extension_file: an extension is taken as it is only if it is that of the sources and of the GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import extension_file

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.borrowed]

ROOT = Path(__file__).parents[2]
DETAIL = '"""Written by setup.py."""\n\nCUDA_EXTENSION = {}\nDETAIL = {!r}\n'
# What a build says of a GPU of its own, and what of those that are shipped.
OWN, SHIPPED = "torch 2.11.0, nvcc release 13.0, for 9.0", "torch 2.11.0, nvcc 13.0, for 8.0;9.0+PTX;12.0+PTX"


@pytest.fixture
def checkout(tmp_path):
    """Make a checkout with sources, and an extension built after them that is Python."""
    for name, text in (
        ("setup.py", ""), ("csrc/pooling.cu", ""), ("csrc/device/planes.cuh", ""), ("gcp_kernels/__init__.py", ""),
        ("gcp_kernels/architectures.py", ""),
        (extension_file.BUILD_INFO, DETAIL.format(True, SHIPPED)), (extension_file.FILE, ""),
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1e9, 1e9 + ("_C." in name)))
    return tmp_path


@pytest.fixture
def imports(tmp_path):
    """Write a program that stands for an interpreter which imports whatever it is asked to."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("architecture", ["8.0", "9.0", "12.0"])
def test_what_was_built_after_its_sources_for_this_gpu_is_taken(checkout, imports, architecture):
    assert extension_file.why_not(checkout, architecture, imports) is None


def test_anything_else_has_to_be_built(checkout, imports):
    def reason(architecture="9.0"):
        return extension_file.why_not(checkout, architecture, imports)

    assert reason("10.0") == "it was built for 8.0, 9.0, 12.0, not for 10.0"
    os.utime(checkout / "csrc/device/planes.cuh", (2e9, 2e9))
    assert reason() == "csrc/device/planes.cuh is newer"
    os.utime(checkout / "csrc/device/planes.cuh", (1e9, 1e9))
    (checkout / extension_file.BUILD_INFO).write_text(DETAIL.format(True, OWN))
    assert reason() is None
    assert reason("8.0") == "it was built for 9.0, not for 8.0"
    (checkout / extension_file.BUILD_INFO).write_text(DETAIL.format(False, "GCP_KERNELS_CUDA=0 was set for the build"))
    assert "not for 9.0" in reason()
    (checkout / extension_file.FILE).unlink()
    assert reason() == "there is no gcp_kernels/_C.abi3.so"


def test_a_noted_build_is_known_by_what_its_sources_say(checkout, imports):
    """In a copied checkout the times of files say nothing."""
    extension_file.note_sources(checkout)
    os.utime(checkout / "csrc/pooling.cu", (2e9, 2e9))
    assert extension_file.why_not(checkout, "9.0", imports) is None
    (checkout / "csrc/pooling.cu").write_text("another")
    os.utime(checkout / "csrc/pooling.cu", (1e9, 1e9))
    assert extension_file.why_not(checkout, "9.0", imports) == "its sources have changed"
    extension_file.note_sources(checkout)
    assert extension_file.why_not(checkout, "9.0", imports) is None
    assert (checkout / extension_file.BUILD_INFO).read_text().count("SOURCES") == 1


def test_what_does_not_import_has_to_be_built(checkout):
    assert "it cannot be imported: " in extension_file.why_not(checkout, "9.0", sys.executable)


def test_the_command_says_which():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "extension-file", "9.0"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, "is taken as it is" in done.stdout) in ((0, True), (1, False))


def test_an_architecture_is_major_and_minor(capsys):
    with pytest.raises(SystemExit) as ending:
        extension_file.main(["sm_90"])
    assert ending.value.code == 2
    assert "one architecture, such as 9.0, got 'sm_90'" in capsys.readouterr().err
