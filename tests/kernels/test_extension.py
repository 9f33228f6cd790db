"""The CUDA extension: it imports anywhere, says why it cannot run and, on a GPU, computes the right values."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

import gcp_kernels
from gcp_kernels.ops.covariance_pool import cuda as covariance_pool
from gcp_kernels.ops.cuda_device import backend as cuda
from gcp_kernels.ops.cuda_device import extension
from gcp_kernels.ops.isqrt_pool import cuda as isqrt_pool
from gcp_kernels.ops.triangle import cuda as triangle
from tests.support.extension import NVCC, built, gpu, run

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


# --- the reasons ---


def test_operations_without_a_kernel_are_named_first():
    assert cuda.why_not("newton_schulz_sqrt", torch.ones(1)) == "newton_schulz_sqrt has no CUDA kernel in this version"


def test_the_reason_of_the_build_is_passed_on(monkeypatch):
    build = types.ModuleType("gcp_kernels._build_info")
    build.CUDA_EXTENSION, build.DETAIL = False, "torch was not importable in the build environment"
    monkeypatch.setitem(sys.modules, "gcp_kernels._build_info", build)
    expected = "extension not built: torch was not importable in the build environment"
    assert extension.why_not_loaded.__wrapped__() == expected


def test_a_failed_load_is_reported(monkeypatch):
    build = types.ModuleType("gcp_kernels._build_info")
    build.CUDA_EXTENSION, build.DETAIL = True, ""
    monkeypatch.setitem(sys.modules, "gcp_kernels._build_info", build)
    monkeypatch.setitem(sys.modules, "gcp_kernels._C", None)
    reason = extension.why_not_loaded.__wrapped__()
    assert reason.startswith(f"extension failed to load with torch {torch.__version__}: ")


def test_without_the_extension_the_reason_is_raised(monkeypatch):
    for module in (cuda, extension):
        monkeypatch.setattr(module, "why_not_loaded", lambda: "extension not built: because")
    assert cuda.why_not("triu_vec", torch.ones(1, 2, 2)) == "extension not built: because"
    assert cuda.status() == "unavailable: extension not built: because"
    with pytest.raises(RuntimeError, match="'cuda' cannot run triu_vec: extension not built: because"):
        triangle.triu_vec(torch.ones(1, 2, 2), fold=True)
    with pytest.raises(RuntimeError, match="'cuda' cannot run triu_unvec: extension not built: because"):
        triangle.triu_unvec(torch.ones(1, 3), mirror=True)


def test_with_the_extension_the_tensor_decides(monkeypatch):
    monkeypatch.setattr(cuda, "why_not_loaded", lambda: None)
    assert cuda.why_not("triu_vec", torch.ones(1, 2, 2)) == "it needs a CUDA tensor, got one on cpu"


def test_a_forced_backend_raises_and_names_the_reason():
    matrix = torch.eye(3).expand(2, 3, 3)
    reason = cuda.why_not("triu_vec", matrix)
    assert reason is not None
    with pytest.raises(RuntimeError, match=re.escape(reason)):
        gcp_kernels.triu_vec(matrix, backend="cuda")


# --- the binary ---


@built
def test_operators_are_registered():
    """What they fill is marked as changed, so that torch keeps copies in order."""
    for name, schema in {
        "triu_vec": "(Tensor matrix, bool fold) -> Tensor",
        "triu_unvec": "(Tensor vector, bool mirror) -> Tensor",
        "isqrt_pool": "(Tensor x, int n_iter, bool triu, int planes, bool positions, Tensor(a!) pooled, "
        "Tensor(b!) centre, Tensor(c!) trace, int? shared_limit=None) -> ()",
        "isqrt_pool_backward": "(Tensor grad, Tensor x, Tensor centre, Tensor trace, int n_iter, bool triu, "
        "int planes, bool positions, Tensor(a!) grad_x, int? shared_limit=None) -> ()",
        "covariance_pool": "(Tensor x, Tensor? scale, bool triu, int planes, Tensor(a!) pooled, "
        "Tensor(b!) centre, int? shared_limit=None) -> ()",
        "covariance_pool_backward": "(Tensor grad, Tensor x, Tensor? scale, Tensor centre, bool triu, "
        "Tensor(a!) grad_x, Tensor(b!)? grad_scale, int? shared_limit=None) -> ()",
    }.items():
        operator = getattr(torch.ops.gcp_kernels_cuda, name).default
        assert str(operator._schema) == f"gcp_kernels_cuda::{name}{schema}"


@built
@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")
def test_a_torch_without_cuda_is_named():
    assert "this build of torch has no CUDA support" in extension.why_not_device(0)


@built
def test_a_cpu_tensor_meets_a_clear_error():
    with pytest.raises(RuntimeError, match="triu_vec: matrix must be a CUDA tensor, got one on the CPU"):
        triangle.triu_vec(torch.ones(1, 2, 2), fold=True)
    with pytest.raises(RuntimeError, match="triu_unvec: vector must be a CUDA tensor, got one on another"):
        triangle.triu_unvec(torch.ones(1, 3, device="meta"), mirror=False)
    with pytest.raises(RuntimeError, match="isqrt_pool: x must be a CUDA tensor, got one on the CPU"):
        isqrt_pool.isqrt_pool(torch.ones(1, 2, 2), 5, True, False, "fast")
    with pytest.raises(RuntimeError, match="covariance_pool: x must be a CUDA tensor, got one on the CPU"):
        covariance_pool.covariance_pool(torch.ones(1, 2, 2), None, True, "fast")


CSRC = Path(__file__).parents[2] / "csrc"


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")
def test_only_what_is_filled_is_asked_for_a_mutable_pointer():
    """Of an input it would make torch copy a lazy clone, a copy that nobody asked for."""
    asked = {
        str(source.relative_to(CSRC)): found
        for source in CSRC.rglob("*")
        if source.is_file()
        and (found := re.findall(r"(\w+)(?:\.|->)mutable_data_ptr\(", source.read_text(encoding="utf-8")))
    }
    assert asked == {
        "pooling_arguments.cpp": ["pooled", "grad_x", "statistic"],
        "pooling_launch.h": ["slabs"],
        "covariance_pool/entry.cpp": ["grad_scale"],
        "triangle/entry.cpp": ["vector", "matrix"],
    }
    # Statistics of the forward pass are filled there and read by the backward pass.
    entries = [CSRC / operation / "entry.cpp" for operation in ("isqrt_pool", "covariance_pool")]
    text = "".join(entry.read_text(encoding="utf-8") for entry in entries)
    passes = re.split(r"^void ", text, flags=re.MULTILINE)
    filling = {part.partition("(")[0] for part in passes if "filled_statistic(centre" in part}
    reading = {part.partition("(")[0] for part in passes if " statistic_of(centre" in part}
    assert filling == {"isqrt_pool", "covariance_pool"}
    assert reading == {"isqrt_pool_backward", "covariance_pool_backward"}


@built
@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("readelf") is None, reason="needs nm and readelf")
def test_the_binary_needs_only_the_stable_abi():
    binary = sys.modules["gcp_kernels._C"].__file__
    lines = run("nm", "-D", "--undefined-only", binary).stdout.splitlines()
    kinds = {name.split("@")[0]: kind for kind, name in (line.split()[-2:] for line in lines)}

    assert kinds["aoti_torch_get_current_cuda_stream"] == "w", "must be weak: only CUDA builds of torch define it"
    of_the_c_api = re.compile(r"(aoti_torch|torch)_[a-z0-9_]+$")
    of_torch = [name for name in kinds if "torch" in name or re.search(r"c10|N2at|ATen", name)]
    assert [name for name in of_torch if not of_the_c_api.match(name)] == []
    strong = {name for name in of_torch if "cuda" in name and kinds[name] != "w"}
    assert strong <= {"aoti_torch_device_type_cuda"}
    assert not [name for name in kinds if re.match(r"(__)?cuda|cu[A-Z]", name)], "the CUDA runtime is static"
    assert [name for name in kinds if name.startswith(("Py", "_Py"))] == ["PyModule_Create2"]

    dynamic = run("readelf", "-d", binary).stdout
    needed = re.findall(r"NEEDED.*\[(\S+?)\.so", dynamic)
    assert "libtorch" in needed, "brings in the CUDA half of torch where there is one"
    assert not {"libtorch_python", "libtorch_cuda", "libc10_cuda", "libcudart", "libcuda"} & set(needed)


# --- on a GPU ---


def expected_vec(matrix: torch.Tensor, fold: bool) -> torch.Tensor:
    i, j = torch.triu_indices(*matrix.shape[-2:], device=matrix.device)
    upper = matrix[:, i, j]
    return torch.where(i < j, upper + matrix[:, j, i], upper) if fold else upper


def expected_unvec(vector: torch.Tensor, mirror: bool, channels: int) -> torch.Tensor:
    i, j = torch.triu_indices(channels, channels, device=vector.device)
    matrix = vector.new_zeros(vector.shape[0], channels, channels)
    if mirror:
        matrix[:, j, i] = vector
    matrix[:, i, j] = vector
    return matrix


def poison_free_memory(elements: int, dtype: torch.dtype) -> None:
    """Let the next allocation of this size find NaN, so that what a kernel leaves unwritten shows."""
    torch.full((elements,), float("nan"), dtype=dtype, device="cuda")


def assert_right(matrix: torch.Tensor) -> None:
    """Check all four maps, on ``matrix`` and on vectors of its strides, bitwise."""
    batch, channels, _ = matrix.shape
    size = channels * (channels + 1) // 2
    for flag in (False, True):
        poison_free_memory(batch * size, matrix.dtype)
        vector = triangle.triu_vec(matrix, fold=flag)
        torch.testing.assert_close(vector, expected_vec(matrix, flag), rtol=0, atol=0)
        for source in (vector, vector.repeat(1, 2)[:, ::2], vector[:1].expand(batch, -1)):
            poison_free_memory(batch * channels * channels, matrix.dtype)
            result = triangle.triu_unvec(source, mirror=flag)
            torch.testing.assert_close(result, expected_unvec(source, flag, channels), rtol=0, atol=0)


class TestOnGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("channels", [1, 2, 3, 31, 32, 33, 64, 100, 256])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_layouts(self, channels, dtype):
        matrix = torch.randn(5, channels, channels, device="cuda").to(dtype)
        assert_right(matrix)
        assert_right(matrix.mT)
        assert_right(matrix[::2])
        assert_right(matrix[:1].expand(4, -1, -1))
        assert_right(torch.randn(3, channels, 3 * channels + 1, device="cuda").to(dtype)[:, :, 1::3])

    def test_nothing_stands_against_it(self):
        matrix = torch.ones(1, 2, 2, device="cuda")
        assert cuda.why_not("triu_vec", matrix) is None
        assert "supports float16" in cuda.why_not("triu_vec", matrix.to(torch.int32))

    def test_opcheck_of_what_fills_its_arguments(self):
        """The schema says what is changed and that nothing else is; there is no fake and no autograd at this level."""
        x, operators = torch.randn(3, 20, 7, device="cuda"), torch.ops.gcp_kernels_cuda
        pooled, centre, trace = x.new_empty(3, 210), x.new_empty(3, 20), x.new_empty(3)
        scale, grad_x = torch.randn(3, 20, device="cuda"), torch.empty_like(x)
        operators.isqrt_pool(x, 3, True, 1, False, pooled, centre, trace)
        for operator, arguments in (
            (operators.isqrt_pool, (x, 3, True, 1, False, pooled, centre, trace)),
            (operators.isqrt_pool_backward, (pooled, x, centre, trace, 3, True, 2, False, grad_x)),
            (operators.covariance_pool, (x, scale, True, 2, pooled, centre)),
            (operators.covariance_pool_backward, (pooled, x, scale, centre, True, grad_x, scale.clone())),
        ):
            torch.library.opcheck(operator.default, arguments, test_utils="test_schema")

    def test_pooling_rejections(self):
        x = torch.ones(2, 3, 4, device="cuda")
        pooled, centre, trace = x.new_empty(2, 6), x.new_empty(2, 3), x.new_empty(2)
        operator = torch.ops.gcp_kernels_cuda.isqrt_pool
        for arguments, message in [
            ((x[0], 5, True, 1, False, pooled, centre, trace), r"\(B, C, M\), got \(3, 4\)"),
            ((x.double(), 5, True, 1, False, pooled, centre, trace), "float16, bfloat16 or float32, got Double"),
            ((x, 0, True, 1, False, pooled, centre, trace), "n_iter must be from 1"),
            ((x, 5, True, 3, False, pooled, centre, trace), "planes must be 1 or 2, got 3"),
            ((x, 5, False, 1, False, pooled, centre, trace), r"pooled must have shape \(2, 3, 3\), got \(2, 6\)"),
            ((x, 5, True, 1, False, pooled.half(), centre, trace), "pooled must be Float, got Half"),
            (
                (x.expand(2, 3, 4).repeat(1, 100, 1), 5, True, 1, False, pooled, centre, trace),
                "C must be from 1 to 256, got 300",
            ),
            (
                (x.expand(2, 3, 4).repeat(1, 1, 100), 5, True, 1, True, pooled, centre, trace),
                "M must be from 1 to 256, got 400",
            ),
            ((x, 5, True, 1, False, pooled, centre.cpu(), trace), "centre must be a CUDA tensor"),
            (
                (x, 5, True, 1, False, pooled, centre, trace, 1 << 30),
                r"shared_limit must be from 0 to .*, got 1073741824",
            ),
            ((x, 5, True, 1, False, pooled, centre, trace, 1024), "needs .* bytes of shared memory, .* has 1024"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                operator(*arguments)

    def test_empty(self):
        assert triangle.triu_vec(torch.ones(0, 3, 3, device="cuda"), fold=True).shape == (0, 6)
        assert triangle.triu_vec(torch.ones(2, 0, 0, device="cuda"), fold=True).shape == (2, 0)
        assert triangle.triu_unvec(torch.ones(0, 6, device="cuda"), mirror=True).shape == (0, 3, 3)
        assert triangle.triu_unvec(torch.ones(2, 0, device="cuda"), mirror=True).shape == (2, 0, 0)
        assert isqrt_pool.isqrt_pool(torch.ones(0, 3, 3, device="cuda"), 5, True, False, "fast")[0].shape == (0, 6)

    def test_rejections(self):
        for call, argument, message in [
            (triangle.triu_vec, torch.ones(2, 3, 4, device="cuda"), r"\(B, C, C\), got \(2, 3, 4\)"),
            (triangle.triu_vec, torch.ones(1, 2, 2, device="cuda", dtype=torch.int32), "got Int"),
            (triangle.triu_unvec, torch.ones(2, 5, device="cuda"), r"C\(C\+1\)/2 for some C, got 5"),
            (triangle.triu_unvec, torch.ones(3, device="cuda"), "must have shape"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                call(argument, True)

    def test_more_samples_than_a_grid_axis_of_65535(self):
        assert_right(torch.randn(70_000, 3, 3, device="cuda"))

    def test_more_tiles_than_a_grid_axis_of_65535(self):
        matrix = torch.randn(1, 11_600, 11_600, device="cuda", dtype=torch.float16)
        vector = triangle.triu_vec(matrix, fold=False)
        assert torch.equal(triangle.triu_unvec(vector, mirror=False), matrix.triu())

    def test_other_stream(self):
        """The work stands in the current stream's order: after the long kernel that fills its input."""
        stream = torch.cuda.Stream()
        matrix = torch.zeros(8, 64, 64, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            matrix.fill_(1.0)
            vector = triangle.triu_vec(matrix, fold=True)
        stream.synchronize()
        torch.testing.assert_close(vector, expected_vec(matrix, True), rtol=0, atol=0)

    def test_captured_in_a_graph(self):
        matrix = torch.randn(4, 40, 40, device="cuda")
        triangle.triu_vec(matrix, fold=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            vector = triangle.triu_vec(matrix, fold=True)
        matrix.copy_(torch.randn_like(matrix))
        graph.replay()
        torch.testing.assert_close(vector, expected_vec(matrix, True), rtol=0, atol=0)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
    def test_other_current_device(self):
        matrix = torch.randn(3, 40, 40, device="cuda:1")
        with torch.cuda.device(0):
            vector = triangle.triu_vec(matrix, fold=True)
            assert torch.cuda.current_device() == 0
        assert vector.device == matrix.device
        torch.testing.assert_close(vector, expected_vec(matrix, True), rtol=0, atol=0)

    @pytest.mark.slow
    def test_beyond_2_to_the_31_elements(self):
        if torch.cuda.mem_get_info()[0] < 24 << 30:
            pytest.skip("needs 24 GiB of free GPU memory")
        matrix = torch.randn(2**31 // 256**2 + 3, 256, 256, device="cuda", dtype=torch.float16)
        vector = triangle.triu_vec(matrix, fold=True)
        torch.testing.assert_close(vector[-3:], expected_vec(matrix[-3:], True), rtol=0, atol=0)
        result = triangle.triu_unvec(vector, mirror=True)
        torch.testing.assert_close(result[-3:], expected_unvec(vector[-3:], True, 256), rtol=0, atol=0)
