"""What the walk behind ``python -m benchmarks predict`` makes of machine code, and how long that takes in its model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.codegen.cost_model import walk as predict_walk
from benchmarks.codegen.cost_model.memory import PARTIAL_SECTOR
from benchmarks.codegen.cost_model.phases import Phases
from benchmarks.codegen.cost_model.pipeline import Unit, registers_of, simulate
from benchmarks.codegen.cost_model.rates import RATES
from benchmarks.codegen.cost_model.registers import ALL, NotUnderstood
from benchmarks.codegen.cost_model.walk import Walk
from tests.support.machine_code import code_of, issued, walked

pytestmark = pytest.mark.same_without_gpu

H100 = RATES[90]


def test_a_loop_is_walked_as_often_as_it_runs():
    walk = walked(
        "MOV R0, RZ",
        "HMMA.16816.F32 R4, R8, R12, R4",
        "IADD3 R0, R0, 0x1, RZ",
        "ISETP.GE.AND P0, PT, R0, 0x5, PT",
        "@!P0 BRA {1}",
        "EXIT",
    )
    assert issued(walk)["HMMA.16816.F32"] == 5
    assert issued(walk)["EXIT"] == 1


def test_threads_that_part_meet_again_and_each_way_is_issued_once():
    """Lanes below 8 go one way, the others another; the second warp goes one way only."""
    walk = walked(
        "S2R R0, SR_TID.X",
        "ISETP.LT.AND P0, PT, R0, 0x8, PT",
        "BSSY B0, {7}",
        "@P0 BRA {6}",
        "FADD R1, R2, R3",
        "BRA {7}",
        "FMUL R1, R2, R3",
        "BSYNC B0",
        "BAR.SYNC.DEFER_BLOCKING 0x0",
        "EXIT",
        warps=2,
    )
    both, one = issued(walk, 0), issued(walk, 1)
    assert (both["FADD"], both["FMUL"], both["BAR.SYNC.DEFER_BLOCKING"], both["EXIT"]) == (1, 1, 1, 1)
    assert (one["FADD"], one["FMUL"]) == (1, 0)


def test_what_shared_memory_holds_decides_and_its_transactions_are_counted():
    """Each thread stores its number 128 bytes from the next: 32 words of one bank."""
    walk = walked(
        "S2R R0, SR_TID.X",
        "IMAD R1, R0, 0x80, RZ",
        "STS [R1+0x400], R0",
        "LDS R2, [R1+0x400]",
        "ISETP.EQ.AND P0, PT, R2, R0, PT",
        "@P0 EXIT",
        "FROB",
        shared=4096,
    )
    assert [walk.trace.events[number].transactions for number in walk.trace.warps[0][2:4]] == [32, 32]


@pytest.mark.parametrize(("branch", "whole"), [("BRA.CONV ~URZ", "FMUL"), ("BRA.DIV UR4", "FADD")])
def test_a_branch_asks_whether_the_whole_warp_is_there(branch, whole):
    """Of the second warp one thread is missing."""
    walk = walked(
        "S2R R0, SR_TID.X", "ISETP.EQ.AND P0, PT, R0, 0x21, PT", "@P0 EXIT", f"{branch}, {{6}}",
        "FADD R1, R2, R3", "EXIT", "FMUL R1, R2, R3", "EXIT", warps=2,
    )  # fmt: skip
    for warp, there in ((0, whole), (1, {"FMUL": "FADD", "FADD": "FMUL"}[whole])):
        assert [name for name in ("FADD", "FMUL") if issued(walk, warp)[name]] == [there]


def test_sectors_of_which_a_store_writes_a_part_count_more():
    """Two bytes a lane, 64 in all: two whole sectors; one element further, a whole one and two parts; loads alike."""
    walk = walked(
        "S2R R0, SR_TID.X", "IMAD R2, R0, 0x2, RZ", "MOV R3, 0x10", "STG.E.U16 desc[UR4][R2.64], R0",
        "STG.E.U16 desc[UR4][R2.64+0x2], R0", "LDG.E.U16 R4, desc[UR4][R2.64+0x2]", "EXIT",
    )  # fmt: skip
    transactions = [walk.trace.events[number].transactions for number in walk.trace.warps[0][3:6]]
    assert transactions == [2, 1 + 2 * PARTIAL_SECTOR, 3]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("IADD3 R9, P0, R1, R2, RZ", 0xFFFFFFFF),
        ("IADD3 R9, R1, -R2, RZ", 1),
        ("IMAD R9, R1, R2, R3", 0x80000000 * 0x7FFFFFFF + 7),
        ("IMAD.HI.U32 R9, R1, R2, RZ", 0x80000000 * 0x7FFFFFFF >> 32),
        ("IMAD.HI R9, R1, R2, RZ", -0x80000000 * 0x7FFFFFFF >> 32),
        ("LEA R9, R3, R2, 0x4", 0x7FFFFFFF + (7 << 4)),
        ("LEA.HI R9, R1, R3, RZ, 0x2", 7 + 2),
        ("LEA.HI.SX32 R9, R1, R3, 0x2", 7 - 2),
        ("SHF.R.S32.HI R9, RZ, 0x1f, R1", -1),
        ("SHF.R.U32.HI R9, RZ, 0x1f, R1", 1),
        ("SHF.L.U32 R9, R3, 0x1e, RZ", 7 << 30),
        ("SHF.L.U64.HI R9, R1, 0x1, R3", 15),
        ("LOP3.LUT R9, R1, R3, R2, 0x96, !PT", 0x80000000 ^ 7 ^ 0x7FFFFFFF),
        ("PRMT R9, R3, 0x9910, R1", 0x07),
        ("PRMT R9, R1, 0x7632, R3", 0x00008000),
        ("VIADDMNMX R9, R3, 0x1, R1, PT", 0x80000000),
        ("VIMNMX R9, R1, R3, !PT", 7),
        ("IABS R9, R1", 0x80000000),
        ("SEL R9, R1, R3, !PT", 7),
    ],
)
def test_whole_numbers(line, expected):
    """R1 is the least number, R2 the greatest, R3 is 7."""
    walk = walked("MOV R1, 0x80000000", "MOV R2, 0x7fffffff", "MOV R3, 0x7", line, "EXIT")
    assert int(walk.registers.values[9, 0]) == expected % (1 << 32)


def test_spilled_registers_come_back_to_their_threads():
    walk = walked(
        "LDC R1, c[0x0][0x28]", "IADD3 R1, R1, -0x10, RZ", "S2R R4, SR_TID.X", "IADD3 R5, R4, 0x1, RZ",
        "STL.64 [R1+0x8], R4", "LDL R9, [R1+0xc]", "EXIT", warps=2,
    )  # fmt: skip
    assert walk.registers.values[9].tolist() == list(range(1, 65))
    assert [walk.trace.events[number].transactions for number in walk.trace.warps[1][4:6]] == [2, 1]


def test_predicates_are_kept_in_bytes_of_a_word():
    walk = walked(
        "S2R R0, SR_TID.X", "ISETP.LT.AND P0, P1, R0, 0x5, PT", "MOV R9, 0x7", "P2R.B2 R9, PR, R9, 0x3",
        "R2P PR, R9.B2, 0x2", "SEL R8, R0, RZ, P1", "EXIT",
    )  # fmt: skip
    assert walk.registers.values[9].tolist() == [0x10007] * 5 + [0x20007] * 27
    assert walk.registers.values[8].tolist() == [0] * 5 + list(range(5, 32))


def test_a_warp_votes():
    walk = walked(
        "S2R R0, SR_TID.X", "ISETP.EQ.AND P0, PT, R0, 0x21, PT", "VOTE.ANY R9, P1, P0", "VOTEU.ALL UP0, P0",
        "SEL R8, R0, RZ, P1", "EXIT", warps=2,
    )  # fmt: skip
    assert walk.registers.values[9, ::32].tolist() == [0, 2]
    assert walk.registers.values[8].tolist() == [0] * 32 + list(range(32, 64))
    assert not walk.registers.predicates[8].any()


def test_a_number_of_64_bits_is_compared_and_added_in_halves():
    """0x1_00000000 - 1, in two words, is below 0x1_00000000."""
    walk = walked(
        "MOV R2, RZ",
        "MOV R3, 0x1",
        "IADD3 R4, P0, R2, -0x1, RZ",
        "IADD3.X R5, R3, -0x1, RZ, P0, !PT",
        "ISETP.LT.U32.AND P1, PT, R4, R2, PT",
        "ISETP.LT.AND.EX P1, PT, R5, R3, PT, P1",
        "SEL R9, R4, RZ, P1",
        "EXIT",
    )
    assert [int(walk.registers.values[number, 0]) for number in (4, 5, 9)] == [0xFFFFFFFF, 0, 0xFFFFFFFF]


def test_a_table_of_the_code_is_read_by_each_thread():
    lines = ["S2R R0, SR_LANEID", "SHF.L.U32 R0, R0, 0x2, RZ", "LDC R9, c[0x3][R0+0x4]", "EXIT"]
    table = b"".join((7 * number).to_bytes(4, "little") for number in range(33))
    walk = Walk(code_of(*lines), 90, b"", 32, 64, {3: table})
    walk.run()
    assert walk.registers.values[9].tolist() == [7 * (lane + 1) for lane in range(32)]


def test_a_switch_goes_where_its_table_says():
    lines = ["MOV R4, 0x4", "LDC R4, c[0x2][R4]", "BRX R4 -0x30", "FROB", "EXIT", "FROB"]
    table = b"".join((16 * number).to_bytes(4, "little") for number in (3, 4, 5))
    walk = Walk(code_of(*lines), 90, b"", 32, 64, {2: table})
    walk.run()
    assert issued(walk)["EXIT"] == 1


def test_a_division_of_whole_numbers_by_way_of_floats():
    """23 / 5, as the assembler has it: a reciprocal, a step of Newton's, and a correction."""
    walk = walked(
        "MOV R0, 0x17",
        "MOV R1, 0x5",
        "I2F.U32.RP R2, R1",
        "MUFU.RCP R3, R2",
        "IADD3 R4, R3, 0xffffffe, RZ",
        "F2I.FTZ.U32.TRUNC.NTZ R7, R4",
        "IADD3 R6, -R7, RZ, RZ",
        "IMAD R5, R6, R1, RZ",
        "MOV R6, RZ",
        "IMAD.HI.U32 R7, R7, R5, R6",
        "IMAD.HI.U32 R9, R7, R0, RZ",
        "EXIT",
    )
    assert int(walk.registers.values[9, 0]) == 4


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["FROB R1, R2", "EXIT"], "FROB R1, R2 at 0x0"),
        (["SHFL.UP PT, R1, R2, 0x1, 0x1f", "EXIT"], "SHFL.UP"),
        (["STS [RZ], R1", "EXIT"], "outside of shared memory"),
        (["LDG.E R1, desc[UR4][R2.64]", "EXIT"], "an address in no tensor"),
        (["MOV R1, c[0x0][0x210]", "EXIT"], "behind what there is"),
        (["BRA {0}"], "no end"),
        (["S2R R0, SR_TID.X", "BSSY B0, {0}", "ISETP.EQ.AND P0, PT, R0, RZ, PT", "@P0 BAR.SYNC 0x0", "BSYNC B0"],
         "never come"),
        (["S2R R0, SR_TID.X", "ISETP.LT.AND P0, PT, R0, 0x8, PT", "@P0 HMMA.16816.F32 R4, R8, R12, R4"],
         "a product of a part of a warp"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(lines, words, monkeypatch):
    monkeypatch.setattr(predict_walk, "MOST_TURNS", 1000)
    with pytest.raises(NotUnderstood, match=words.replace("[", r"\[")):
        walked(*lines)


def time_of(*lines: str, warps: int = 1, ctas: int = 1) -> float:
    return simulate(walked(*lines, warps=warps).trace, H100, ctas, [[]] * warps).cycles


def test_instructions_wait_for_what_they_read():
    chain = time_of(*["FADD R1, R1, R2"] * 20, "EXIT")
    others = time_of(*[f"FADD R{number}, R1, R2" for number in range(3, 23)], "EXIT")
    assert chain == 19 * H100.arithmetic_latency.value + 2
    assert others == 21


def test_units_that_are_shared_and_units_that_are_not():
    products = [f"HMMA.16816.F32 R{16 + 4 * number}, R8, R12, R{16 + 4 * number}" for number in range(10)]
    alone = time_of(*products, "EXIT")
    assert alone == pytest.approx(9 * H100.product.value + 2, abs=1)
    assert time_of(*products, "EXIT", warps=4) == alone  # each has a tensor core of its own
    assert time_of(*products, "EXIT", warps=8) == pytest.approx(alone + 10 * H100.product.value, abs=1)
    assert time_of(*products, "EXIT", warps=4, ctas=2) == time_of(*products, "EXIT", warps=8)
    loads = [f"LDSM.16.M88.4 R{16 + 4 * number}, [R0]" for number in range(20)]
    loads = ["MOV R0, 0x400", *loads, "MOV R0, R92", "EXIT"]
    # Each lane has the address of the first row: all rows of a tile are one.
    assert time_of(*loads, warps=8) == pytest.approx(8 * 20 * 4 + H100.shared_latency.value, rel=0.1)


def test_a_product_whose_guard_is_off_takes_a_slot_and_is_none():
    """The second warp multiplies; the first issues as much, and no tensor core works for it."""
    products = [f"@P0 HMMA.16816.F32 R{number}, R8, R12, R{number}" for number in range(16, 56, 4)]
    second = ["S2R R0, SR_TID.X", "ISETP.GE.AND P0, PT, R0, 0x20, PT"]
    trace = walked(*second, *products, "EXIT", warps=2).trace
    skipped, taken = (Phases(replace(trace, warps=[warp]), 1).phases for warp in trace.warps)
    assert [sum(phase.counts["skipped"] for phase in found.values()) for found in (skipped, taken)] == [10, 0]
    assert [sum(phase.counts["HMMA"] for phase in found.values()) for found in (skipped, taken)] == [0, 10]
    timing = simulate(trace, H100, 1, [[], []])
    assert timing.issued == 2 * 13
    assert timing.busy[Unit.TENSOR] == pytest.approx(10 * H100.product.value / 4)
    one, other = (times[-1] for times in timing.times)
    assert other - one == pytest.approx(9 * (H100.product.value - 1), abs=1)


def test_a_barrier_ends_with_the_last_warp():
    lines = ["S2R R0, SR_TID.X", "ISETP.LT.AND P0, PT, R0, 0x20, PT", "@!P0 BRA {43}"]
    lines += ["FADD R1, R1, R2"] * 40 + ["BAR.SYNC 0x0", "EXIT"]
    walk = walked(*lines, warps=2)
    timing = simulate(walk.trace, H100, 1, [[len(warp) - 1] for warp in walk.trace.warps])
    waits = 40 * H100.arithmetic_latency.value + H100.barrier.value
    assert waits < timing.times[0][0] == timing.times[1][0] < waits + 20


@pytest.mark.parametrize(
    ("line", "reads", "gives"),
    [
        ("HMMA.16816.F32 R4, R8, R12, R4", {8, 9, 10, 11, 12, 13, 4, 5, 6, 7}, {4, 5, 6, 7}),
        ("LDSM.16.MT88.4 R8, [R2+UR4]", {2, 260}, {8, 9, 10, 11}),
        ("STS.128 [R5+0x10], R8", {5, 8, 9, 10, 11}, set()),
        ("@P1 LDG.E.64 R44, desc[UR8][R8.64]", {264, 8, 9, ALL + 1}, {44, 45}),
        ("IADD3.X R15, P2, R1, R11, RZ, P5, !PT", {1, 11, ALL + 5}, {15, ALL + 2}),
        ("IMAD.WIDE.U32 R4, R7, UR19, R2", {7, 275, 2, 3}, {4, 5}),
        ("ISETP.GE.AND P0, P3, R0, R3, P4", {0, 3, ALL + 4}, {ALL, ALL + 3}),
        ("LOP3.LUT P0, RZ, R8, 0x7, RZ, 0xc0, !PT", {8}, {ALL}),
        ("VOTEU.ANY UP0, P4", {ALL + 4}, {ALL + 8}),
    ],
)
def test_what_an_instruction_reads_and_gives(line, reads, gives):
    found_reads, found_gives = registers_of(code_of(line)[0])
    assert set(found_gives) == gives
    assert reads - {264} <= set(found_reads) <= reads


def test_a_warp_waits_for_all_groups_of_copies_but_the_last():
    """Two groups; the second is begun a hundred cycles later, and need not have arrived."""
    arguments = (1 << 36).to_bytes(8, "little")
    copy = ["LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64]", "LDGDEPBAR"]
    lines = ["LDC.64 R2, c[0x0][0x210]", "MOV R5, 0x400", *copy, *["FADD R1, R1, R6"] * 25, *copy]
    times = []
    for pending in ("0x1", "0x0"):
        walk = Walk(code_of(*lines, f"DEPBAR.LE SB0, {pending}", "EXIT"), 90, arguments, 32, 1024)
        times.append(simulate(walk.run(), H100, 1, [[]]).cycles)
    assert H100.global_latency.value < times[0] < H100.global_latency.value + 40
    assert times[1] - times[0] == pytest.approx(100, abs=20)
