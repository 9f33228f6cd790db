"""Every shipped configuration of the Triton backend, compiled without a GPU; and proof that the gate can fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.codegen import static
from benchmarks.codegen.gate import KIB, SHARED_LIMIT, SPILL_LIMIT, TENSOR_MEMORY_LIMIT, Figures, problems
from tests.support.kernel_sources import SOURCES, form_of

pytest.importorskip("triton", reason="the kernels are Triton's")

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions]

ROOT = Path(__file__).parents[2]
# Here kernels may be interpreted, which is decided once for a process; those to come shall compile them.
COMPILING = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

# Of those for which launches are configured; all of them unless some are named.
ARCHITECTURES = tuple(map(int, os.environ.get("STATIC_ARCHITECTURES", "").split())) or static.ARCHITECTURES
FORMS = {"on chip", "persistent", "phases", "covariance"}
GOOD = Figures(
    registers=255, stack=SPILL_LIMIT, loads=60, stores=60, shared=99 * KIB, tensor_memory=512, products=3,
    tensor_cores={"HMMA": 8}, ldsm=4, instructions=900,
)  # fmt: skip


def python(*arguments, environment=COMPILING):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)


def compiling_reason():
    done = python("-c", "from benchmarks.codegen import static; print(static.why_not() or '')")
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of the default run, of which there is one for all tests."""
    if reason := compiling_reason():
        pytest.skip(f"kernels cannot be compiled here: {reason}")
    file = tmp_path_factory.mktemp("static") / "rows.jsonl"
    done = python("-m", "benchmarks", "static", "--arch", *map(str, ARCHITECTURES), "--json", str(file))
    assert file.exists(), done.stderr
    found = [json.loads(line) for line in file.read_text().splitlines()]
    # The exit status says what the rows say.
    assert done.returncode == (1 if any(row["problems"] for row in found) else 0), done.stderr
    return found


def of(rows, arch):
    if arch not in ARCHITECTURES:
        pytest.skip(f"STATIC_ARCHITECTURES names {', '.join(map(str, ARCHITECTURES))} alone")
    found = [row for row in rows if row["arch"] == arch]
    assert found
    return found


def described(row):
    return f"{row['form']} {row['direction']} {row['kernel']} {row['precision']} {row['configuration']}"


@pytest.mark.slow
@pytest.mark.parametrize("arch", static.ARCHITECTURES)
def test_no_kernel_spills_more_registers_than_is_allowed(rows, arch):
    assert not {described(row): row["stack"] for row in of(rows, arch) if row["stack"] > SPILL_LIMIT}


@pytest.mark.slow
@pytest.mark.parametrize("arch", static.ARCHITECTURES)
def test_loops_of_products_hold_neither_spills_nor_barriers_in_plenty(rows, arch):
    """Of spills and barriers fewer than products, which are at most one instruction for 16 of a sum; and two per loop.

    Eight warps on tiles of 64 rows had twice as many barriers on sm_90. Where a loop over k is unrolled, what is around
    it is counted too, up to the end of a tile, known by the tiles that are read from the slab. Capability 10.x, where
    one instruction is a whole step and sums come back from tensor memory through shared memory, is not counted.
    """
    for row in of(rows, arch):
        for loop in row["loops"] if arch != 100 else ():
            products = sum(loop.get(name, 0) for name in row["tensor_cores"])
            assert loop.get("BAR", 0) <= products + (22 if "LDG.128" in loop else 2), described(row)
            assert loop.get("LDL", 0) + loop.get("STL", 0) <= products + 2, described(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 120])
def test_features_are_read_as_wide_as_their_positions_allow(rows, arch):
    """Of 14 x 14 positions four at once: 8 bytes in half precision, not 2. Of covariances, whose loops read no more."""
    seen = 0
    for row in of(rows, arch):
        if row["kernel"] == "covariance_kernel" or (row["form"], row["direction"]) == ("covariance", "forward"):
            loads = [name for loop in row["loops"] for name in loop if name.startswith("LDG")]
            assert loads, described(row)
            assert min(int(name.partition(".")[2]) for name in loads) >= 64, described(row)
            seen += 1
    assert seen == 6


@pytest.mark.slow
def test_products_of_capability_10_are_waited_for(rows):
    """So says the walk of static_waits, which finds the fault in what was shipped before, see test_static_waits."""
    seen = 0
    for row in of(rows, 100):
        assert row["unwaited"] == [], described(row)
        seen += "UTCHMMA" in row["tensor_cores"]
    assert seen > 20


@pytest.mark.slow
@pytest.mark.parametrize("arch", static.ARCHITECTURES)
def test_shared_and_tensor_memory_are_within_the_limit(rows, arch):
    # Table 80 serves sm_86 and sm_89 too, which have less.
    limit = SHARED_LIMIT[86 if arch == 80 else arch]
    for row in of(rows, arch):
        assert row["shared"] <= limit, described(row)
        assert row["tensor_memory"] <= TENSOR_MEMORY_LIMIT, described(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", static.ARCHITECTURES)
def test_products_run_on_tensor_cores(rows, arch):
    kinds = {80: {"HMMA"}, 90: {"HMMA", "HGMMA"}, 100: {"HMMA", "UTCHMMA"}, 120: {"HMMA"}}[arch]
    for row in of(rows, arch):
        if row["products"]:
            assert row["tensor_cores"], described(row)
            assert set(row["tensor_cores"]) <= kinds, described(row)
        # Features and covariances make products; what only sums or scales makes none.
        traces = {"statistics_kernel", "trace_kernel", "matrix_trace_kernel"}
        starts = {"start_kernel", "gram_start_kernel", "largest_kernel", "largest_part_kernel"}
        small = traces | starts | {"matrix_gradient_kernel"}
        assert (row["kernel"] in small) == (row["products"] == 0), described(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", static.ARCHITECTURES)
def test_nothing_else_is_wrong_and_every_kernel_compiles(rows, arch):
    for row in of(rows, arch):
        assert row["problems"] == [], described(row)
        assert row["failure"] is None, described(row)
        assert 0 < row["registers"] <= 255, described(row)
        assert row["instructions"] > sum(row["tensor_cores"].values()), described(row)


@pytest.mark.slow
@pytest.mark.parametrize("arch", static.ARCHITECTURES)
def test_every_form_direction_and_precision_is_there(rows, arch):
    seen = {(row["form"], row["direction"], row["precision"]) for row in of(rows, arch)}
    assert seen == set(product(FORMS, ("forward", "backward"), ("fast", "high")))


@pytest.mark.slow
def test_every_kernel_in_the_sources_is_compiled(rows):
    written = {
        (form_of(source), name)
        for source in SOURCES
        for name in re.findall(r"^def (\w+_kernel)\(", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert {form for form, _ in written} == FORMS
    for arch in ARCHITECTURES:
        assert {(row["form"], row["kernel"]) for row in of(rows, arch)} == written


@pytest.mark.slow
def test_every_shipped_configuration_is_compiled(rows):
    """Counted from the tables, not from what the program thinks is shipped."""
    from gcp_kernels.ops.triton_device import policy
    from gcp_kernels.ops.triton_device.architecture import Architecture

    for arch in ARCHITECTURES:
        table = policy.choices(Architecture(arch, 132))
        for precision, planes in policy.PLANES.items():
            # On the side of the positions; programs share a sample in the largest block alone, by two or three kernels.
            for direction, shipped, positions, kernels in (
                ("forward", table.on_chip_forward[planes], table.positions_forward[planes], 2),
                ("backward", table.on_chip_backward[planes], table.positions_backward[planes], 3),
            ):
                of_pass = ("on chip", direction, precision)
                found = [row for row in of(rows, arch) if (row["form"], row["direction"], row["precision"]) == of_pass]
                expected = Counter(map(tile_of, (*shipped, *positions, *kernels * positions[-1:])))
                assert Counter("BLOCK_C" + row["configuration"].partition("BLOCK_C")[2] for row in found) == expected


def tile_of(choice):
    """Give what the configuration of a kernel on chip ends with."""
    return f"BLOCK_C={choice.block_c} BLOCK_M={choice.block_m} warps={choice.warps} stages={choice.stages}"


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_a_good_row_passes(arch):
    assert problems(arch, GOOD) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stack": SPILL_LIMIT + 8}, r"spills 520 bytes \(LDL 60, STL 60\), of 512 at most"),
        ({"unwaited": ("%d_total_73 = ttng.tmem_load %d_total",)}, "not wait for the product before %d_total_73"),
        ({"shared": 227 * KIB + 1}, "bytes of shared memory, sm_90 gives"),
        ({"tensor_memory": 1024}, "1024 columns of tensor memory"),
        ({"tensor_cores": {}}, "no instruction of tensor cores"),
        ({"tensor_cores": {"HMMA": 0}}, "no instruction of tensor cores"),
        ({"failure": "PassManager::run failed"}, "does not compile: PassManager"),
    ],
    ids=str,
)
def test_the_gate_finds_what_is_wrong(change, why):
    (found,) = problems(90, replace(GOOD, **change))
    assert re.search(why, found)


@pytest.mark.parametrize(("arch", "kib"), [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)])
def test_the_limit_of_shared_memory_is_that_of_the_architecture(arch, kib):
    assert problems(arch, replace(GOOD, shared=kib * KIB)) == []
    assert len(problems(arch, replace(GOOD, shared=kib * KIB + 16))) == 1


def test_a_kernel_without_products_needs_no_tensor_cores():
    assert problems(80, replace(GOOD, products=0, tensor_cores={})) == []


OVERSIZED = """
import json, torch
from benchmarks.codegen import static
from benchmarks.codegen.triton_kernels import KernelCase, launched
from gcp_kernels.ops.triton_device.policy import OnChip
choice = OnChip({block_c}, 32, warps={warps})
case = KernelCase(choice, backward={backward}, precision="fast", dtype=torch.bfloat16, c={block_c})
print(json.dumps([row.as_dict() for row in static.measure(launched(case, {arch}), jobs=1)]))
"""


def compiled(**values):
    if reason := compiling_reason():
        pytest.skip(f"kernels cannot be compiled here: {reason}")
    done = python("-c", OVERSIZED.format(**values))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    return row


@pytest.mark.thorough
def test_an_oversized_configuration_is_found_to_spill():
    row = compiled(block_c=128, warps=8, backward=True, arch=80)
    assert row["stack"] > 0
    assert row["loads"] > 0
    assert row["stores"] > 0
    assert any("spills" in problem for problem in row["problems"])


@pytest.mark.thorough
def test_what_does_not_compile_is_a_row_with_one_line():
    row = compiled(block_c=48, warps=4, backward=False, arch=80)
    (problem,) = row["problems"]
    assert problem.startswith("it does not compile: ")
    assert "\n" not in problem


@pytest.fixture
def kernel():
    from benchmarks.codegen.triton_kernels import TritonKernel

    return TritonKernel(80, "on chip", "forward", "dumps", "fast", "made up", "", "json", "{}")


def test_a_compiler_that_dies_is_reported_without_its_noise(kernel, monkeypatch, capfd):
    from benchmarks.codegen import ahead_of_time as static_compile

    def die(kernel):
        os.write(2, b"MLIR, a page of it\nnowhere.py:1:2: error: 'tt.dot' is out of order\nmore MLIR\n")
        os.kill(os.getpid(), signal.SIGKILL)  # nothing can catch it, pytest's fault handler neither

    monkeypatch.setattr(static_compile, "compiled", die)
    for figures in static_compile.compile_all([kernel, kernel, kernel], jobs=2):
        assert figures.failure == "the compiler ended with SIGKILL ('tt.dot' is out of order)"
    assert capfd.readouterr() == ("", "")


def test_a_compiler_that_raises_is_reported_in_one_line(kernel, monkeypatch):
    from benchmarks.codegen import ahead_of_time as static_compile

    def fail(kernel):
        raise RuntimeError("no such pass\nsecond line")

    monkeypatch.setattr(static_compile, "compiled", fail)
    (figures,) = static_compile.compile_all([kernel], jobs=1)
    assert figures.failure == "RuntimeError: no such pass"
    assert static.row_of(kernel, figures).problems == ["it does not compile: RuntimeError: no such pass"]


def test_figures_come_in_order_however_long_each_takes(kernel, monkeypatch):
    from benchmarks.codegen import ahead_of_time as static_compile

    def slow_first(kernel):
        time.sleep(0.3 if kernel.arch == 0 else 0.0)
        return Figures(registers=kernel.arch)

    monkeypatch.setattr(static_compile, "compiled", slow_first)
    kernels = [replace(kernel, arch=arch) for arch in range(5)]
    assert [figures.registers for figures in static_compile.compile_all(kernels, jobs=3)] == list(range(5))


def test_it_refuses_to_compile_where_kernels_are_interpreted():
    done = python("-m", "benchmarks", "static", environment={**COMPILING, "TRITON_INTERPRET": "1"})
    assert done.returncode == 2
    assert "TRITON_INTERPRET=1" in done.stderr


def test_it_refuses_to_compile_without_the_disassembler(tmp_path, monkeypatch, capsys):
    tools = SimpleNamespace(cuobjdump=SimpleNamespace(path=str(tmp_path / "cuobjdump")))
    knobs = SimpleNamespace(runtime=SimpleNamespace(interpret=False), nvidia=tools)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(knobs=knobs))
    assert static.main([]) == 2
    assert "cuobjdump is missing" in capsys.readouterr().err


def test_it_refuses_to_compile_without_triton(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert static.main([]) == 2
    assert "Triton cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--arch", "75"], ["--json", "/no/such/place/rows"]])
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        static.main(arguments)
    assert ending.value.code == 2
    assert arguments[0] in capsys.readouterr().err
