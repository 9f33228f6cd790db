"""Networks where gcp_kernels is not: compiled packages and saved programs, in Python and in the C++ of the page.

What docs/deployment.md shows is what runs: its scripts, its program and its CMakeLists.txt.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gcp_kernels
from gcp_kernels.nn import GCP
from gcp_kernels.ops.cuda_device import backend

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.same_without_gpu,
    pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler"),
]


def run(*command: object, folder: Path, ours: bool = True) -> subprocess.CompletedProcess:
    """Run a command; ``ours``: whether gcp_kernels can be imported."""
    if not ours:
        # -S leaves out site-packages with an installed gcp_kernels; torch is still found by its folder.
        command = (command[0], "-S", *command[1:])
    places = str(ROOT) if ours else os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = {**os.environ, "PYTHONPATH": places}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def block(language: str, containing: str) -> str:
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text)
    return found


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program of the page, as the page says."""
    cmake = shutil.which("cmake", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if cmake is None:
        pytest.skip("needs cmake")
    folder = tmp_path_factory.mktemp("serve")
    (folder / "serve.cpp").write_text(block("cpp", "int main"))
    (folder / "CMakeLists.txt").write_text(block("cmake", "find_package"))
    for step in (("-B", "build", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"), ("--build", "build")):
        done = run(cmake, *step, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "serve"


LOADED = """
import sys, torch
images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
for load in (torch._inductor.aoti_load_package, lambda name: torch.export.load(name).module()):
    print(*load({"<lambda>": "program.pt2"}.get(load.__name__, "network.pt2"))(images).flatten().tolist())
assert "gcp_kernels" not in sys.modules
"""


def test_a_decomposed_network_runs_in_python_and_in_c_without_this_package(serve, tmp_path):
    made = run(sys.executable, "-c", block("python", "decomposed"), folder=tmp_path)
    assert made.returncode == 0, made.stderr
    wanted = torch.tensor([float(number) for number in made.stdout.split()])
    loaded = run(sys.executable, "-c", LOADED, folder=tmp_path, ours=False)
    assert loaded.returncode == 0, loaded.stderr
    served = run(serve, "network.pt2", folder=tmp_path)
    assert served.returncode == 0, served.stderr
    for line in (*loaded.stdout.splitlines(), served.stdout):
        scores = torch.tensor([float(number) for number in line.split()])
        assert scores.shape == (20,)
        assert (scores - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.extension
def test_a_package_calls_the_library_of_operators_that_was_loaded_first(serve, tmp_path, monkeypatch):
    """Without a GPU it gets as far as the kernels' own check of where the tensor is."""
    monkeypatch.setattr(backend, "why_not", lambda *_: None)  # that the tensor is not on a GPU
    library = gcp_kernels.export.extension_library()
    pool = GCP(3, dim=None)
    program = torch.export.export(pool.eval(), (torch.randn(2, 3, 32, 32),))
    package = tmp_path / "network.pt2"
    torch._inductor.aoti_compile_and_package(gcp_kernels.export.use_extension(program), package_path=str(package))
    alone = run(serve, package, folder=tmp_path)
    assert alone.returncode == 1
    assert "Could not find schema for gcp_kernels_cuda::isqrt_pool_inference" in alone.stderr
    served = run(serve, package, library, folder=tmp_path)
    assert served.returncode == 1
    assert "gcp_kernels_cuda::isqrt_pool_inference: x must be a CUDA tensor, got one on the CPU" in served.stderr
    call = "torch.ops.gcp_kernels_cuda.triu_vec(torch.ones(1, 2, 2), False)"
    script = f"import torch; torch.ops.load_library({str(library)!r}); {call}"
    loaded = run(sys.executable, "-c", script, folder=tmp_path, ours=False)
    assert "gcp_kernels_cuda::triu_vec: matrix must be a CUDA tensor" in loaded.stderr


def test_errors_without_this_package_name_its_operators(serve, tmp_path):
    """The page says what to do about each."""
    layer = nn.Sequential(GCP(3, dim=None)).eval()
    program = torch.export.export(layer, (torch.randn(2, 3, 32, 32),))
    torch.export.save(program, tmp_path / "program.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "network.pt2"))
    loaded = run(sys.executable, "-c", "import torch; torch.export.load('program.pt2')", folder=tmp_path, ours=False)
    served = run(serve, "network.pt2", folder=tmp_path)
    assert loaded.returncode
    assert served.returncode == 1
    for message, shown in (
        ("We failed to resolve torch.ops.gcp_kernels.", loaded.stderr),
        ("Could not find schema for gcp_kernels::", served.stderr),
    ):
        assert message in shown
        assert f"`{message}…`" in PAGE
