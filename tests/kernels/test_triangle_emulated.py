"""The triangle kernels' own source, executed on the CPU (tests/support/cuda_emulation), against torch.triu_indices.

Copies and single additions are exact, so every comparison is bitwise.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support.cuda_emulation.guarded import GuardedBuffer, guarded_copy
from tests.support.emulated import needs_emulation
from tests.support.pairwise import pairwise

ROOT = Path(__file__).parents[2]
EMULATION = ROOT / "tests" / "support" / "cuda_emulation"
CSRC = ROOT / "csrc"

pytestmark = [pytest.mark.same_without_gpu, needs_emulation]

ELEMENTS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
BATCH = 3
CHANNELS = [1, 2, 3, 16, 31, 32, 33, 64, 100]
# Blocks over (batch, tiles): one block that strides over everything, some, more than there is work.
GRIDS = [(1, 1), (2, 3), (4, 11)]


class Emulation:
    """The triangle kernels of one copy of csrc, compiled for the CPU."""

    def __init__(self, csrc: Path, build: Path, *options: str) -> None:
        library = build / "triangle_emulated.so"
        command = ["g++", "-std=c++17", "-shared", "-fPIC", *options]
        # An out-of-bounds index of a tile or a signed overflow traps, without a sanitizer library.
        command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
        command += [f"-I{EMULATION}", f"-I{csrc}", str(EMULATION / "triangle_emulated.cpp"), "-o", str(library)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self._library = ctypes.CDLL(str(library))

    def triu_vec(self, matrix: torch.Tensor, fold: bool, grid: tuple[int, int], backwards: bool) -> torch.Tensor:
        batch, channels, _ = matrix.shape
        output = GuardedBuffer(batch * channels * (channels + 1) // 2, matrix.dtype)
        self._launch("triu_vec", matrix, output, batch, channels, fold, grid, backwards)
        return output.elements.view(batch, -1)

    def triu_unvec(
        self, vector: torch.Tensor, mirror: bool, grid: tuple[int, int], backwards: bool, channels: int
    ) -> torch.Tensor:
        batch = vector.shape[0]
        output = GuardedBuffer(batch * channels * channels, vector.dtype)
        self._launch("triu_unvec", vector, output, batch, channels, mirror, grid, backwards)
        return output.elements.view(batch, channels, channels)

    def _launch(self, name, source, output, batch, channels, flag, grid, backwards):
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, output.elements)]
        strides = [ctypes.c_int64(stride) for stride in source.stride()]
        status = getattr(self._library, f"{name}_emulated")(
            *(ELEMENTS[source.dtype], pointers[0], *strides, pointers[1]),
            *(ctypes.c_int64(batch), channels, int(flag), *grid, int(backwards)),
        )
        assert status == 0, f"{name} under emulation ended with status {status}"
        output.assert_intact()


@pytest.fixture(scope="session")
def emulation(tmp_path_factory) -> Emulation:
    return Emulation(CSRC, tmp_path_factory.mktemp("emulation"), "-O1", "-Wall", "-Wextra", "-Werror")


def expected_vec(matrix: torch.Tensor, fold: bool) -> torch.Tensor:
    i, j = torch.triu_indices(*matrix.shape[-2:])
    below = torch.where(i < j, matrix[:, j, i], 0) if fold else torch.zeros_like(matrix[:, i, j])
    return matrix[:, i, j] + below


def expected_unvec(vector: torch.Tensor, mirror: bool, channels: int) -> torch.Tensor:
    i, j = torch.triu_indices(channels, channels)
    matrix = vector.new_zeros(vector.shape[0], channels, channels)
    if mirror:
        matrix[:, j, i] = vector
    matrix[:, i, j] = vector
    return matrix


def matrix_strides(layout: str, channels: int) -> tuple[int, int, int]:
    area = channels * channels
    return {
        "contiguous": (area, channels, 1),
        "transposed": (area, 1, channels),
        "sliced": (6 * area + 5, 2 * channels + 1, 3),
        "same sample": (0, channels, 1),
        "constant rows": (channels, 0, 1),
    }[layout]


def distinct(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Random values with these strides between protected pages."""
    generator = torch.Generator().manual_seed(len(shape) * 1000 + shape[-1])
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    return guarded_copy(values.to(dtype), strides)


def check_vec(emulation, channels, layout="contiguous", dtype=torch.float32, fold=True, grid=(2, 3), backwards=False):
    matrix = distinct((BATCH, channels, channels), matrix_strides(layout, channels), dtype)
    before = matrix.clone()
    vector = emulation.triu_vec(matrix, fold, grid, backwards)
    torch.testing.assert_close(vector, expected_vec(before, fold), rtol=0, atol=0)
    assert torch.equal(matrix, before)


def check_unvec(
    emulation, channels, layout="contiguous", dtype=torch.float32, mirror=True, grid=(2, 3), backwards=False
):
    size = channels * (channels + 1) // 2
    strides = {"contiguous": (size, 1), "sliced": (4 * size + 3, 3), "same sample": (0, 1), "constant": (1, 0)}[layout]
    vector = distinct((BATCH, size), strides, dtype)
    before = vector.clone()
    matrix = emulation.triu_unvec(vector, mirror, grid, backwards, channels)
    torch.testing.assert_close(matrix, expected_unvec(before, mirror, channels), rtol=0, atol=0)
    assert torch.equal(vector, before)


VEC_LAYOUTS = ["contiguous", "transposed", "sliced", "same sample", "constant rows"]
UNVEC_LAYOUTS = ["contiguous", "sliced", "same sample", "constant"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("channels", "layout", "fold"), pairwise(CHANNELS, VEC_LAYOUTS, (False, True)))
def test_triu_vec(emulation, channels, layout, fold):
    for backwards in (False, True):
        check_vec(emulation, channels, layout, fold=fold, backwards=backwards)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("channels", "layout", "mirror"), pairwise(CHANNELS, UNVEC_LAYOUTS, (False, True)))
def test_triu_unvec(emulation, channels, layout, mirror):
    for backwards in (False, True):
        check_unvec(emulation, channels, layout, mirror=mirror, backwards=backwards)


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_dtype_and_grid(emulation, dtype, grid):
    for flag in (False, True):
        check_vec(emulation, 70, dtype=dtype, fold=flag, grid=grid)
        check_unvec(emulation, 70, dtype=dtype, mirror=flag, grid=grid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e-7, 1.0, 3e4])
def test_half_sums_round_once_as_torch_does(emulation, dtype, scale):
    """Subnormal results, ordinary ones, and for float16 sums that overflow."""
    matrix = distinct((BATCH, 33, 33), matrix_strides("contiguous", 33), dtype, scale)
    vector = emulation.triu_vec(matrix, True, (2, 3), False)
    torch.testing.assert_close(vector, expected_vec(matrix, True), rtol=0, atol=0, equal_nan=True)


def test_what_is_not_asked_for_is_not_used(emulation):
    """NaN below the diagonal reaches nothing without fold."""
    matrix = distinct((BATCH, 40, 40), matrix_strides("contiguous", 40), torch.float32)
    i, j = torch.tril_indices(40, 40, offset=-1)
    matrix[:, i, j] = float("nan")
    assert emulation.triu_vec(matrix, False, (2, 3), False).isfinite().all()


def check_far_apart(emulation):
    """Two samples more than 2^31 elements apart; memory backs only those pages of the mapping that are touched."""
    channels, distance = 33, 2**31 + 7
    for shape, strides in [
        ((2, channels, channels), (distance, channels, 1)),
        ((2, channels * (channels + 1) // 2), (distance, 1)),
    ]:
        count = distance + channels * channels
        storage = torch.frombuffer(mmap.mmap(-1, 2 * count), dtype=torch.float16, count=count)
        source = storage.as_strided(shape, strides)
        source.copy_(torch.randn(shape))
        if len(shape) == 3:
            result, expected = emulation.triu_vec(source, True, (2, 1), False), expected_vec(source, True)
        else:
            result = emulation.triu_unvec(source, True, (2, 1), False, channels)
            expected = expected_unvec(source, True, channels)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_offsets_beyond_32_bits(emulation):
    check_far_apart(emulation)


def check_everything(emulation):
    for backwards in (False, True):
        for channels in (33, 70):
            for layout in ("contiguous", "transposed"):
                for flag in (False, True):
                    check_vec(emulation, channels, layout, fold=flag, grid=(1, 1), backwards=backwards)
            for flag in (False, True):
                check_unvec(emulation, channels, mirror=flag, grid=(1, 1), backwards=backwards)
    check_far_apart(emulation)


# What is broken, the source text, what it becomes, and the file if it is not triangle.cuh.
FAULTS = [
    ("index off by one", "/ 2 + (column - row)", "/ 2 + (column - row) + 1", "packed.h"),
    ("wrong row start", "row * (row - 1) / 2", "row * (row + 1) / 2", "packed.h"),
    ("no barrier after triu_vec's loads", "__syncthreads();  // the tiles are complete", ""),
    ("no barrier before triu_vec's next loads", "__syncthreads();  // the tiles may be overwritten", ""),
    ("no barrier after triu_unvec's load", "__syncthreads();  // the tile is complete", ""),
    ("no barrier before triu_unvec's next load", "__syncthreads();  // the tile may be overwritten", ""),
    ("barrier that some threads skip", "__syncthreads();  // the tiles are", "if (threadIdx.x) __syncthreads();  //"),
    ("loads beyond the matrix", "if (i < channels && j < channels) tile", "if (i >= 0 && j >= 0) tile"),
    (
        "stores beyond the vector",
        "if (j < channels && i <= j) {\n          T value",
        "if (i <= j) {\n          T value",
    ),
    ("diagonal counted twice", "if (fold && i < j)", "if (fold)"),
    ("tile on the diagonal not its own mirror", "diagonal ? upper[c][r] : lower[c][r]", "lower[c][r]"),
    ("32-bit batch offset of triu_vec", "sample * matrices.batch_stride", "int(sample * matrices.batch_stride)"),
    ("32-bit batch offset of triu_unvec", "sample * vectors.batch_stride", "int(sample * vectors.batch_stride)"),
    ("last tile left out", "number < tiles; number", "number < tiles - 1; number"),
]


def test_every_check_passes_unbroken(emulation):
    check_everything(emulation)


# Every fifth with the other tests, all of them for `make mutation`.
CASES = [
    pytest.param(f[1:], id=f[0], marks=[pytest.mark.mutation] + [pytest.mark.slow] * (i % 5 == 0))
    for i, f in enumerate(FAULTS)
]


@pytest.mark.parametrize("planted", CASES)
def test_a_planted_fault_is_caught(tmp_path, planted):
    text, fault, *elsewhere = planted
    shutil.copytree(CSRC, tmp_path / "csrc")
    (source,) = (tmp_path / "csrc").rglob(*elsewhere or ["triangle.cuh"])
    assert text in source.read_text(), "the kernel has changed: plant this fault in its new text"
    source.write_text(source.read_text().replace(text, fault))
    broken = Emulation(tmp_path / "csrc", tmp_path)
    with pytest.raises(AssertionError):
        check_everything(broken)
