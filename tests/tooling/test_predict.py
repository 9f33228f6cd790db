"""``python -m benchmarks predict``: phases, rates, useful products, and the real kernels; see test_predict_walk.py."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.cases import Case
from benchmarks.codegen import predict, static_extension
from benchmarks.codegen.cost_model import launch as predict_launch
from benchmarks.codegen.cost_model.code import CudaKernel, read
from benchmarks.codegen.cost_model.floor import useful
from benchmarks.codegen.cost_model.launch import Launch, launches
from benchmarks.codegen.cost_model.model import predict as predicted
from benchmarks.codegen.cost_model.model import resident_ctas
from benchmarks.codegen.cost_model.phases import EPILOGUES, FEATURES, PRODUCTS, WITH_FEATURES, Phases
from benchmarks.codegen.cost_model.pipeline import simulate
from benchmarks.codegen.cost_model.rates import RATES
from benchmarks.codegen.cost_model.walk import Walk
from benchmarks.peers.providers import PROVIDERS
from benchmarks.rows import Row, Writer
from gcp_kernels.architectures import BUILT, TARGETS
from gcp_kernels.ops import times
from gcp_kernels.ops.cuda_device.extension import build_detail
from gcp_kernels.ops.cuda_device.side import side_of
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from tests.support import inputs
from tests.support.extension import built
from tests.support.machine_code import code_of

pytestmark = pytest.mark.same_without_gpu

REASON = static_extension.why_not() or predict_launch.why_not()
readable = pytest.mark.skipif(REASON is not None, reason=str(REASON))
H100 = RATES[90]


def test_phases_are_told_apart_by_what_is_done_in_them():
    """Features are staged and multiplied, and the sums stored; then a product, and behind its barrier an epilogue."""
    arguments = (1 << 36).to_bytes(8, "little")
    lines = [
        "LDC.64 R2, c[0x0][0x210]", "LDG.E R4, desc[UR4][R2.64]", "MOV R5, 0x400", "STS [R5], R4", "BAR.SYNC 0x0",
        "LDSM.16.M88.4 R8, [R5]", "HMMA.16816.F32 R12, R8, R10, R12", "STS [R5], R12", "BAR.SYNC 0x0",
        "HMMA.16816.F32 R12, R8, R10, R12", "FADD R1, R1, R2", "BAR.SYNC 0x0", "FADD R1, R1, R2", "STS [R5], R12",
        "BAR.SYNC 0x0", "EXIT",
    ]  # fmt: skip
    walk = Walk(code_of(*lines), 90, arguments, 32, 64)
    phases = Phases(walk.run(), 1)
    found = phases.time(simulate(walk.trace, H100, 1, phases.starts()).times)
    assert [segment.phase for segment in phases.segments[0]][:5] == [
        FEATURES, WITH_FEATURES, EPILOGUES, PRODUCTS, EPILOGUES,
    ]  # fmt: skip
    assert found[FEATURES].counts["global"] == 1
    assert found[PRODUCTS].counts == {**dict.fromkeys(found[PRODUCTS].counts, 0), "HMMA": 1, "float": 1, "barrier": 1}
    assert found[EPILOGUES].epilogues == 2
    total = simulate(walk.trace, H100, 1, [[]]).cycles
    assert sum(phase.cycles for phase in found.values()) == pytest.approx(total, abs=1)


def test_rates_are_there_for_every_architecture_and_say_where_they_are_from():
    assert {TARGETS[arch].name for arch in RATES} == set(BUILT)
    for rates in RATES.values():
        for rate in rates.named().values():
            assert rate.value > 0
            assert rate.source
    assert RATES[80].product.value == 8
    assert H100.product.value == pytest.approx(4 / 0.629)


@pytest.mark.parametrize(
    ("channels", "positions", "forward", "backward"), [(256, 196, 25704, 90088), (256, 49, 24480, 81952)]
)
def test_products_that_are_useful(channels, positions, forward, backward):
    found = [useful(f"isqrt_pool_{name}_kernel", channels, positions, 5, "fast") for name in ("forward", "backward")]
    assert [one.products for one in found] == [forward, backward]


def test_a_kernel_whose_products_nobody_has_counted_is_an_error():
    with pytest.raises(ValueError, match="no products are counted for other_kernel"):
        useful("other_kernel", 64, 49, 5, "fast")


@pytest.mark.parametrize(
    ("threads", "shared", "registers", "expected"),
    [
        (512, 214_000, 128, 1),  # shared memory
        (128, 60_000, 128, 3),
        (96, 10_000, 160, 4),  # registers
        (32, 1_000, 32, 32),
        (128, 1_000, 32, 16),  # warps
    ],
)
def test_as_many_ctas_as_find_room(threads, shared, registers, expected):
    launch = Launch("isqrt_pool_forward_kernel", "small fast", threads, shared, 4, b"")
    kernel = CudaKernel(Path(), 90, "", launch.kernel, launch.variant, registers)
    assert resident_ctas(launch, kernel, H100) == expected


def test_a_measured_time_stands_beside_its_case_and_pass():
    case = Case(256, 64, 14, 14, dtype="float16", precision="fast", direction="backward")
    measured = [
        Row.of("time", "g", case, "gcp_kernels[triton]", "iterations", milliseconds=1.0),
        Row.of("time", "g", replace(case, n_iter=4), predict.PROVIDER, "iterations", milliseconds=2.0),
        Row.of("time", "g", replace(case, direction="forward"), predict.PROVIDER, "iterations", milliseconds=3.0),
        Row.of("time", "g", case, predict.PROVIDER, "iterations", milliseconds=4.0),
    ]
    for kernel, expected in (("isqrt_pool_forward_kernel", 3000.0), ("isqrt_pool_backward_kernel", 4000.0)):
        assert predict.measured_microseconds(case, kernel, measured) == expected
    assert predict.measured_microseconds(replace(case, batch=1), "isqrt_pool_forward_kernel", measured) is None
    assert any(provider.name == predict.PROVIDER for provider in PROVIDERS)


@pytest.fixture(scope="module")
def kernels():
    return read(static_extension.binary(), 90)


SMALL = Case(256, 40, 4, 5, n_iter=2, dtype="float16", precision="high")


@built
@readable
@pytest.mark.slow
def test_a_walk_multiplies_as_often_as_the_emulated_source(kernels, emulation):
    """Both passes on both sides, of a small and of a middle matrix of channels."""
    for case in (SMALL, replace(SMALL, channels=80, precision="fast")):
        x = inputs.relu_features(1, case.channels, case.positions, torch.float16)
        executed = []
        for side in (CHANNELS, POSITIONS):
            pooled, centre, trace = emulation.isqrt_pool(x, 2, True, case.precision, side)
            executed.append(emulation.products)
            grad = torch.ones_like(pooled)
            emulation.isqrt_pool_backward(grad, x, centre, trace, 2, True, case.precision, side)
            executed.append(emulation.products)
        for launch, products in zip(launches(case, 90), executed, strict=True):
            kernel = next(one for one in kernels if (one.name, one.variant) == (launch.kernel, launch.variant))
            found = predicted(case, launch, kernel, H100)
            assert found.executed == products
            assert found.microseconds > found.floor


@built
@readable
@pytest.mark.slow
@pytest.mark.parametrize("arch", RATES)
def test_the_command(arch, tmp_path, capsys):
    if f"{arch / 10:.1f}" not in build_detail():
        pytest.skip(f"the extension was built without sm_{arch}: {build_detail()}")
    run = tmp_path / "run.json"
    case = replace(SMALL, precision="fast", direction="inference")
    measured = [
        Row.of("time", "g", replace(case, direction=way), predict.PROVIDER, "iterations", milliseconds=time)
        for way, time in (("inference", 3.0), ("backward", 4.0))
    ]
    Writer(tmp_path / "measured", {}).write(measured)
    arguments = ["256x40x4x5", "--n-iter", "2", "--arch", str(arch), "--json", str(run)]
    assert predict.main([*arguments, "--measured", str(tmp_path / "measured")]) == 0
    printed = capsys.readouterr().out
    assert f"predicted for sm_{arch} " in printed
    assert "not measured" in printed
    rows = [json.loads(line) for line in run.read_text().splitlines()]
    names = [f"isqrt_pool{side}_{way}_kernel" for side in ("", "_positions") for way in ("forward", "backward")]
    assert [row["kernel"] for row in rows] == names
    for row in rows:
        assert row["predicted_us"] > row["floor_us"] > 0
        assert row["executed"] >= row["useful"] > 0
    # Beside the kernels of the side that the package takes: 2 blocks of positions, 3 of channels.
    assert [row["measured_us"] for row in rows] == [None, None, 3000.0, 4000.0]


@built
@readable
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 196), (256, 49)], ids=str)
def test_the_order_of_backends_has_the_figures_of_these_kernels(kernels, shape):
    """Up to what another compiler may change: whoever makes the kernels faster enters the new figures."""
    (row,) = (row for row in times.TABLE if row.shape == shape and row.precision == "fast")
    (figures,) = (one for one in row.times if one.backend == "cuda" and not one.measured)
    side = math.isqrt(shape[1])
    case = Case(times.SAMPLES, shape[0], side, side, n_iter=5, dtype="float16", precision="fast")
    found = []
    for launch in launches(case, 90):
        if ("positions" in launch.kernel) == (side_of(*shape) == POSITIONS):
            kernel = next(one for one in kernels if (one.name, one.variant) == (launch.kernel, launch.variant))
            found.append(predicted(case, launch, kernel, H100).microseconds)
    assert found == pytest.approx([figures.forward, figures.backward], rel=0.2)


def test_no_prediction_without_an_extension(monkeypatch, capsys):
    monkeypatch.setattr(predict, "why_not", lambda: "there is none")
    assert predict.main([]) == 2
    assert capsys.readouterr().err == "python -m benchmarks predict has nothing to read: there is none\n"


def test_the_rates_are_printed(capsys):
    assert predict.main(["--rates", "--arch", "90"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*H100.named(), "partial_sector"]
    assert any("arXiv 2402.13499: 62.9 %" in line for line in lines)
