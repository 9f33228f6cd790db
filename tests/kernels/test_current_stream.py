"""How the extension finds torch's current stream: csrc/current_stream.cpp beside a stand-in for libtorch_cuda.so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.extension import built, run

CSRC = Path(__file__).parents[2] / "csrc"

pytestmark = [
    pytest.mark.same_without_gpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux (dlopen without loading)"),
    pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree"),
]

TORCH_CUDA = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  *stream = reinterpret_cast<void*>(0x1000L + device);
  return 0;
}
"""
# The stream of device 3, or 0 where there is none; asked for by eight threads at once.
PROBE = """
#include <thread>
#include <vector>
#include "current_stream.h"
extern "C" long probe() {
  long streams[8] = {};
  std::vector<std::thread> threads;
  for (long& stream : streams) {
    threads.emplace_back([&stream] {
      void* found = nullptr;
      const auto function = gcp_kernels::find_current_stream();
      if (function != nullptr && function(3, &found) == 0) stream = reinterpret_cast<long>(found);
    });
  }
  for (auto& thread : threads) thread.join();
  for (long stream : streams) {
    if (stream != streams[0]) return -1;
  }
  return streams[0];
}
"""


def compiled(library: Path, source: str, *options: str) -> Path:
    file = library.with_suffix(".cpp")
    file.write_text(source)
    done = run("g++", "-std=c++17", "-shared", "-fPIC", str(file), *options, "-o", str(library))
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    library = tmp_path_factory.mktemp("torch") / "libtorch_cuda.so"
    return compiled(library, TORCH_CUDA, f"-Wl,-soname,{library.name}")


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    library = tmp_path_factory.mktemp("probe") / "probe.so"
    source = CSRC / "current_stream.cpp"
    return compiled(library, PROBE, f"-I{CSRC}", str(source), "-Wall", "-Wextra", "-Werror", "-ldl", "-pthread")


def found(probe: Path, before: str = "", after: str = "") -> int:
    """Give what the probe finds in its own process, which runs these lines before and after it loads the probe."""
    lines = ["import ctypes", before, f"probe = ctypes.CDLL({str(probe)!r})", after, "print(probe.probe())"]
    done = run(sys.executable, "-c", "\n".join(lines))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def loading(library: Path, mode: int) -> str:
    return f"kept = ctypes.CDLL({str(library)!r}, mode={mode})"


def test_without_a_cuda_build_there_is_none(probe, stand_in, monkeypatch):
    assert found(probe) == 0
    # One that lies on the path is not loaded by asking.
    monkeypatch.setenv("LD_LIBRARY_PATH", str(stand_in.parent))
    assert found(probe) == 0


@pytest.mark.parametrize("mode", [os.RTLD_GLOBAL, os.RTLD_LOCAL], ids=["for the process", "for itself"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loaded_one_is_found(probe, stand_in, mode, when):
    """Before: by the loader, where it is there for the whole process. After, or for itself alone: by looking it up."""
    assert found(probe, **{when: loading(stand_in, mode)}) == 0x1003


def test_a_library_of_another_name_is_found_where_it_is_there_for_the_process(probe, tmp_path):
    other = compiled(tmp_path / "libother.so", TORCH_CUDA, "-Wl,-soname,libother.so")
    assert found(probe, after=loading(other, os.RTLD_GLOBAL)) == 0x1003
    assert found(probe, after=loading(other, os.RTLD_LOCAL)) == 0


@built
@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")
@pytest.mark.parametrize("mode", [os.RTLD_GLOBAL, os.RTLD_LOCAL], ids=["for the process", "for itself"])
def test_the_extension_finds_it(stand_in, mode):
    """With a stand-in the extension gets as far as torch's device guard, which this torch has none of."""
    lines = ["import ctypes, torch", "import gcp_kernels._C", loading(stand_in, mode), "print('imported', flush=True)"]
    lines += ["print(torch.ops.gcp_kernels_cuda.device_error(0))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert "this build of torch has no CUDA support" not in done.stdout + done.stderr
    assert done.stdout.startswith("imported")
    assert len(done.stdout + done.stderr) > len("imported\n"), "neither an answer nor an error"
