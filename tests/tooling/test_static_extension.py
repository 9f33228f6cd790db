"""The machine code of the built extension: no kernel spills, and the pooling kernels multiply on tensor cores."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.codegen import static_extension
from benchmarks.codegen.gate import Figures
from benchmarks.codegen.static_extension import FORMS, ExtensionRow, described, read, rows_of
from gcp_kernels import architectures
from gcp_kernels.ops.cuda_device.extension import build_detail
from tests.support.extension import NVCC, built, run

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.slow]
readable = pytest.mark.skipif(static_extension.why_not() is not None, reason=str(static_extension.why_not()))

PASSES = [f"isqrt_pool_{side}{way}_kernel" for side in ("", "positions_") for way in ("forward", "backward")]
POOLING = {
    *((name, f"{place} {precision}") for name in PASSES for place in FORMS for precision in ("fast", "high")),
    *((f"covariance_pool_{name}_kernel", place) for name in ("forward", "backward") for place in FORMS),
}
# More than any multiprocessor has room for.
POOLING -= {(name, "resident high") for name in PASSES if "backward" in name}
# Of the largest sample of a form; of others sixteen.
WARPS = {"small": 8, "middle": 12}
TRIANGLE = {
    (f"triu_{name}_kernel", dtype)
    for name in ("vec", "unvec")
    for dtype in ("float16", "bfloat16", "float32", "float64")
}


@pytest.fixture(scope="module")
def rows() -> list[ExtensionRow]:
    return read(static_extension.binary())


@built
@readable
def test_every_kernel_is_there_for_every_architecture(rows):
    architectures = {row.arch for row in rows}
    assert architectures
    for arch in architectures:
        assert {(row.kernel, row.variant) for row in rows if row.arch == arch} == POOLING | TRIANGLE


# Compute capabilities of the GPUs that are to find machine code: A100, GeForce 30 and 40, H100, B200, B300, GeForce 50,
# GB10. Machine code runs on its own GPU and on those of the same major number and a larger minor one.
GPUS = ("8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0", "12.1")


def runs(code: str, gpu: str) -> bool:
    (major, minor), (gpu_major, gpu_minor) = code.split("."), gpu.split(".")
    return major == gpu_major and int(minor) <= int(gpu_minor)


def test_the_build_is_for_the_architectures_of_the_registry():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert re.search(r'^ARCHITECTURES = runpy\.run_path\(.*"architectures\.py"\)\)\)\["BUILT"\]$', setup, re.MULTILINE)
    assert "for code, name in ARCHITECTURES.items()" in setup


def test_the_default_architectures_serve_every_gpu_without_translation():
    codes = [name.removesuffix("+PTX") for name in architectures.BUILT.values()]
    assert [gpu for gpu in GPUS if not any(runs(code, gpu) for code in codes)] == []
    assert runs("10.0", "10.3")
    assert not runs("10.3", "10.0")
    assert not runs("9.0", "10.0")


@built
@readable
def test_there_is_machine_code_for_every_architecture_of_the_build(rows):
    """That of 10.0, too, where nvcc knew it: by default it is among them."""
    built_for = build_detail().rpartition(" for ")[2].split(";")
    codes = {name.removesuffix("+PTX").replace(".", "") for name in built_for}
    assert {str(row.arch) for row in rows} == codes


@built
@readable
def test_no_kernel_spills_and_products_run_on_tensor_cores(rows):
    assert [f"sm_{row.arch} {row.kernel} {row.variant}: {row.problems}" for row in rows if row.problems] == []
    for row in rows:
        assert row.figures.instructions > 100
        warps = next((most for form, most in WARPS.items() if row.variant.startswith(form)), 16)
        assert 32 * warps * row.figures.registers <= 65536, f"{row.kernel} {row.variant} finds no room"


@built
@readable
def test_the_command_prints_every_kernel_and_every_layout(rows, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(static_extension, "read", lambda path: rows)  # disassembling takes half a minute
    file = tmp_path / "rows.jsonl"
    assert static_extension.main(["--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"{len(rows)} kernels, 0 not accepted" in printed
    assert len(file.read_text().splitlines()) == len(rows)
    assert json.loads(file.read_text().splitlines()[0])["figures"]["registers"] > 0
    of_channels, of_positions = printed.split("on the side of the positions, for C = 256\n")
    for table, sizes in ((of_channels, ("64 ", "256")), (of_positions, ("49 ", "256"))):
        for text in (f"\n{sizes[0]}  forward    fast", f"\n{sizes[1]}  backward   high", "does not fit", "3/3, "):
            assert text in table


def test_a_kernel_that_has_grown_too_long_is_found():
    figures = Figures(instructions=14_848, ldsm=1, tensor_cores={"HMMA": 1})
    assert ExtensionRow(90, "isqrt_pool_forward_kernel", "streamed high", figures).problems == []
    longer = replace(figures, instructions=14_849)
    (problem,) = ExtensionRow(90, "isqrt_pool_forward_kernel", "streamed high", longer).problems
    assert problem == "its 14849 instructions take more than 232 KiB"


@built
@readable
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_a_spill_is_found(tmp_path):
    """In a kernel of the name of one of ours, which keeps more numbers than it may have registers."""
    values = "\n".join(f"  float v{i} = p[{i} * n];" for i in range(64))
    shuffled = "\n".join(f"  p[{i} * n + 1] = v{63 - i} * v{(i * 7) % 64};" for i in range(64))
    body = f"{values}\n  __syncthreads();\n{shuffled}\n"
    source = tmp_path / "spill.cu"
    source.write_text(f"namespace gcp_kernels {{\n__global__ void triu_vec_kernel(float* p, int n) {{\n{body}}}\n}}\n")
    cubin = tmp_path / "spill.cubin"
    flags = ["-O3", "-arch=sm_90", "-maxrregcount=24", "-cubin", "-o", str(cubin)]
    assert run(str(NVCC), *flags, str(source)).returncode == 0
    (row,) = read(cubin)
    assert row.arch == 90
    assert row.figures.stores > 0
    assert row.problems[0].startswith("it spills")


@built
@readable
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_a_call_of_the_host_is_found(tmp_path):
    """Of a function with a table of constants, by way of a generic lambda: nvcc says nothing, and the kernel stops."""
    source = tmp_path / "trap.cu"
    source.write_text(
        "struct Table { int of[3]; };\ntemplate <int k> constexpr Table kTable = {{1, 2, k}};\n"
        "template <typename Run> constexpr int with(int n, Run run) { return run(n); }\n"
        "constexpr int of_host(int i) { return with(i, [](auto n) { return kTable<5>.of[n]; }); }\n"
        "namespace gcp_kernels {\n__global__ void triu_vec_kernel(int* p) { *p = of_host(p[1]); }\n}\n"
    )
    cubin = tmp_path / "trap.cubin"
    done = run(str(NVCC), "-O3", "-std=c++17", "-arch=sm_90", "-cubin", "-o", str(cubin), str(source))
    if done.returncode == 0:  # a later nvcc may refuse it
        (row,) = read(cubin)
        assert row.problems == ["it has a trap: it calls a function of the host, or does what is undefined"]


def test_what_may_be_spilled_is_few_bytes_and_not_often_in_a_loop_of_products():
    def problems(**figures):
        return ExtensionRow(
            90, "isqrt_pool_forward_kernel", "", Figures(tensor_cores={"HMMA": 2}, ldsm=1, **figures)
        ).problems

    assert problems(stack=32, loads=4, stores=4, loops=({"HMMA": 2},)) == []
    assert problems(stack=40, loads=4, stores=4) != []
    assert problems(stack=8, loads=1, stores=1, loops=({"HMMA": 48, "LDL": 6},)) == []
    assert problems(stack=8, loads=1, stores=1, loops=({"HMMA": 2, "LDL": 1},)) != []


def test_products_without_tensor_cores_are_found():
    def problems(kernel, **figures):
        return ExtensionRow(90, kernel, "", Figures(**figures)).problems

    assert problems("isqrt_pool_forward_kernel", ldsm=1) == ["no HMMA multiplies its blocks"]
    assert problems("isqrt_pool_forward_kernel", tensor_cores={"HMMA": 1}) == ["no LDSM loads its blocks"]
    assert problems("triu_vec_kernel") == []


def test_names_are_read():
    prefix = "_ZN11gcp_kernels"
    assert described(f"{prefix}25isqrt_pool_forward_kernelILNS_4FormE1ELi2EEEvNS_25IsqrtPoolForwardArgumentsE") == (
        "isqrt_pool_forward_kernel",
        "middle high",
    )
    assert described(f"{prefix}15triu_vec_kernelI13__nv_bfloat16EEvNS_7StridedE") == ("triu_vec_kernel", "bfloat16")
    assert described(f"{prefix}15triu_vec_kernelEPfi") == ("triu_vec_kernel", "")
    with pytest.raises(ValueError, match="no kernel of gcp_kernels: _Z3foo"):
        described("_Z3foo")


LISTING = """
Fatbin elf code:
================
arch = sm_{arch}
code version = [1,8]

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN11gcp_kernels30covariance_pool_forward_kernelILNS_4FormE3EEEvi:
  REG:{registers} STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:504 TEXTURE:0 SURFACE:0 SAMPLER:0

	code for sm_{arch}
		Function : _ZN11gcp_kernels30covariance_pool_forward_kernelILNS_4FormE3EEEvi
        /*0000*/                   HMMA.16816.F32 R24, R56.reuse, R126, R24 ;
        /*0010*/              @!P2 LDSM.16.MT88.4 R88, [R100] ;
"""


def test_a_listing_of_several_architectures_is_read():
    found = list(rows_of(LISTING.format(arch=80, registers=40) + LISTING.format(arch=120, registers=41)))
    assert [(row.arch, row.figures.registers) for row in found] == [(80, 40), (120, 41)]
    assert all((row.kernel, row.variant) == ("covariance_pool_forward_kernel", "streamed") for row in found)
    assert all(row.figures.ldsm == row.figures.tensor_cores["HMMA"] == 1 for row in found)


@built
def test_it_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(static_extension, "disassembler", lambda: None)
    assert static_extension.main([]) == 2
    assert "cuobjdump is neither on the PATH" in capsys.readouterr().err


def test_it_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "static-extension", "--help"], cwd=Path(__file__).parents[2],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--json FILE" in done.stdout
