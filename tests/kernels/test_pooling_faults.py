"""Faults planted in the pooling kernels' source, each of which the emulation, or float64, must catch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

from gcp_kernels.ops.sides import POSITIONS
from tests.support import inputs
from tests.support.cuda_emulation import pooling
from tests.support.cuda_emulation.pooling import CSRC, SHARED_LIMITS, Emulation, LaunchFailed, compiled
from tests.support.emulated import (
    FLOAT16,
    FLOAT32,
    check_covariance,
    check_pooling,
    check_strided_gradients,
    check_triangle,
    needs_emulation,
)

pytestmark = [pytest.mark.same_without_gpu, needs_emulation]

# What is wrong, the file, its text, what it becomes, and the status with which the launch must end.
FAULTS = [
    ("no barrier before staged features are used", "feature_products.cuh",
     "block_barrier();  // the features are staged", "", {pooling.RACE}),
    ("no barrier before operands are overwritten", "iteration.cuh", "block_barrier();  // the operands have been read",
     "", {pooling.RACE}),
    ("no barrier after matrices are written", "iteration.cuh", "block_barrier();  // the matrices are written",
     "", {pooling.RACE}),
    ("barrier that one warp skips", "iteration.cuh", "block_barrier();  // the operands have been read",
     "if (warp_of_thread() > 0) block_barrier();", {pooling.DIVERGENT_BARRIER}),
    ("barrier that some lanes skip", "feature_products.cuh", "block_barrier();  // the features are staged",
     "if (lane_of_thread() > 0) block_barrier();", {pooling.DIVERGENT_BARRIER, pooling.DIVERGENT_WARP}),
    ("shuffle that some lanes skip", "statistics.cuh", "moments = moments_of_octets(",
     "moments = !inside ? Moments{} : moments_of_octets(", {pooling.DIVERGENT_WARP}),
    ("barrier that a warp without a tile skips", "iteration.cuh", "block_barrier();  // the operands have been read",
     "if (workspace.tile<kForm>().owned() > 0) block_barrier();", {pooling.DIVERGENT_BARRIER}),
    ("two iterations in one begun too early", "iteration.cuh", "3 * n - 6", "3 * n - 9", {0}),
    ("two iterations in one with the coefficients of one", "iteration.cuh", "(of_two ? 3 : 0)", "0", {0}),
    ("what the quartic is of in the place of Y", "iteration.cuh", "!cube && !(square && of_two)", "!cube", {0}),
    ("the square in the quartic weighed as in a cube", "iteration.cuh", "-17.0f / 12.0f", "-1.5f", {0}),
    ("the gradient used before it is staged", "staged_gradient.cuh", "block_barrier();  // the gradient is staged", "",
     {pooling.RACE}),
    ("half of the gradient on the diagonal", "staged_gradient.cuh", "row == column ? 2.0f * value : value", "value",
     {0}),
    ("a row of the staged gradient taken for another", "staged_gradient.cuh", "packed_index(8, 0, channels - row)",
     "packed_index(7, 0, channels - row)", {0}),
    ("a mirrored block taken for a stored one", "symmetric.cuh", "k < row + r);", "k + 1 < row + r);",
     {0, pooling.RACE}),
    ("a stretch that ends a step too early", "symmetric.cuh", "rows_stored = row + kTileRows<kForm> - 1",
     "rows_stored = row + kTileRows<kForm> - 2", {0, pooling.RACE}),
    ("a result in the place of another", "planes.cuh", "visit(sums[s], first + s)",
     "visit(sums[s], first + s + 1)", {0, pooling.RACE}),
    ("a matrix beyond shared memory", "planes.cuh", "return start() + static_cast<int>(plane) *",
     "return start() + (static_cast<int>(plane) + 6) *", {pooling.OUT_OF_BOUNDS}),
    ("features beyond the last position", "octets.cuh", "return max(min(count, kOctet), 0)", "return kOctet",
     {pooling.SEGMENTATION_FAULT}),
    ("results beyond the last channel", "result_rows.cuh", "at + e >= stored + end) continue;", "false) continue;",
     {pooling.SEGMENTATION_FAULT}),
    ("results before the first of a row", "result_rows.cuh", "if (at >= begin && at", "if (at", {0}),
    ("the result read before it is written", "isqrt_pool/forward.cuh", "block_barrier();  // the root is written", "",
     {pooling.RACE}),
    ("a result stored before all lanes have put theirs", "result_rows.cuh",
     "warp_barrier();  // the rows are longer by a sector", "", {pooling.RACE}),
    ("a result overwritten before it is stored", "result_rows.cuh",
     "warp_barrier();  // what has been stored may be overwritten", "", {pooling.RACE}),
    ("a warp barrier that some lanes skip", "result_rows.cuh", "warp_barrier();  // the rows are longer by a sector",
     "if (lane_of_thread() > 0) warp_barrier();", {pooling.DIVERGENT_WARP}),
    ("a ring that columns beyond the last overwrite", "result_rows.cuh", "if (before >= channels) return;", "", {0}),
    ("two warps at one ring", "planes.cuh", "rings + warp * kRingBytes", "rings", {pooling.RACE}),
    ("the end of each row forgotten", "result_rows.cuh", "(stored + columns) / kSector<Bits>, columns)",
     "(stored + columns) / kSector<Bits> + 1, columns)", {0}),
    ("a streamed column used before it arrived", "stream.cuh", "wait_for_copies<0>();", "", {pooling.SLAB_RACE}),
    ("a column of the ring overwritten too early", "stream.cuh",
     "block_barrier();  // ... and the column before it has been used", "", {pooling.RACE}),
    ("no barrier before a streamed product", "stream.cuh",
     "block_barrier();  // the ring is free, and what the slabs hold is written", "", {pooling.RACE}),
    ("a warp without a tile that leaves a streamed product", "stream.cuh", "if (tile.owned() > 0) return;", "return;",
     {pooling.DIVERGENT_BARRIER}),
    ("a block copied from the next row", "stream.cuh", "column < warp_of_thread() ? 1",
     "column <= warp_of_thread() ? 1", {0, pooling.SLAB_RACE}),
    ("a streamed strip that stays in its column", "stream.cuh", "address += streamed ? slot_step : kBlockBytes",
     "address += streamed ? 0 : kBlockBytes", {0, pooling.RACE}),
    ("a streamed strip whose rows are those of a resident one", "stream.cuh", "by = streamed ? kBlockBytes :",
     "by = false ? kBlockBytes :", {0, pooling.RACE, pooling.OUT_OF_BOUNDS}),
    ("a strip whose rows do not cross the diagonal", "stream.cuh", "{ stored.cross(); }", "{}", {0}),
    ("a row of L whose mirror image is taken for stored", "feature_gradient.cuh", "return k < row ?",
     "return k + 1 < row ?", {0}),
    ("a row of L that goes on a block too early", "feature_gradient.cuh", "(k < row ? 1 : k + 1)",
     "(k + 1 < row ? 1 : k + 1)", {0, pooling.RACE, pooling.OUT_OF_BOUNDS}),
    ("a tile at the edge that ends a step too early", "symmetric.cuh",
     "kCutDiagonal, kCrossing, kCrossing>(), kStreams<kForm> ? row : 0, blocks)",
     "kCutDiagonal, kCrossing, kCrossing>(), kStreams<kForm> ? row : 0, blocks - 1)", {0, pooling.DIVERGENT_BARRIER}),
]  # fmt: skip


# The same of slabs, in kernels that are right but for them: files, their texts, what they become. Of the factors of W V
# the first is resident, the second is not.
SLAB_FAULTS = {
    "no barrier between what is written and its streaming": [
        ("stream.cuh", "block_barrier();  // the ring is free, and what the slabs hold is written", ""),
        ("iteration.cuh", "block_barrier();  // the matrices", "if (number % 3 != 2) block_barrier();  // "),
    ],
    "a slab that two blocks take for theirs": [
        ("planes.cuh", "recomputed(static_cast<int>(blockIdx.x))", "recomputed(0)"),
    ],
    "a word that another lane has just written": [
        ("planes.cuh", "load_slab(words +", "load_slab(words + (lane_of_thread() == 0 ? 4 : 0) +"),
    ],
    "words beyond the slabs": [
        ("planes.cuh", "store_slab(words + w", "store_slab(words - (w == 0 ? 4096 : 0) + w"),
    ],
}  # fmt: skip


# The same on the side of the positions; where the launch ends well, its result is wrong.
POSITIONS_FAULTS = [
    ("no barrier before staged rows are used", "gram.cuh", "block_barrier();  // the rows are staged", "",
     {pooling.RACE}),
    ("rows staged before those there are read", "gram.cuh", "block_barrier();  // what was there before is read", "",
     {pooling.RACE}),
    ("matrices written before the last rows are read", "gram.cuh",
     "block_barrier();  // the last rows have been read", "", {pooling.RACE}),
    ("z q used before it is written", "positions/products.cuh", "block_barrier();  // these rows of T are written", "",
     {pooling.SLAB_RACE}),
    ("the factor used before it is written", "positions/products.cuh",
     "block_barrier();  // the factor is written, and the last panel has been read", "", {pooling.RACE}),
    ("z used before it is staged", "positions/direction.cuh", "block_barrier();  // z is staged", "",
     {pooling.RACE}),
    ("z and H used before they have been copied", "positions/backward.cuh", "wait_for_copies<0>();", "",
     {pooling.RACE, pooling.SLAB_RACE, 0}),
    ("z used before it has been copied", "positions/products.cuh", "wait_for_copies<0>();", "",
     {pooling.RACE, pooling.SLAB_RACE, 0}),
    ("z used before all of it has been copied again", "positions/direction.cuh", "wait_for_copies<0>();", "",
     {pooling.RACE, pooling.SLAB_RACE, 0}),
    ("z not kept in the slab", "positions/features.cuh", "if (!keep) return;", "return;",
     {pooling.SLAB_RACE, pooling.OUT_OF_BOUNDS, 0}),
    ("no room in the slab for z", "positions/layout.h", "!backward && keeps_features() ? 0",
     "!backward || keeps_features() ? 0", {pooling.OUT_OF_BOUNDS, pooling.SLAB_RACE}),
    ("the derivative used before it is written", "positions/gradient.cuh",
     "block_barrier();  // the factor and its derivative are written", "", {pooling.RACE}),
    ("rows beyond the slab", "slab_rows.cuh", "i * blocks *", "(i + 8) * blocks *",
     {pooling.OUT_OF_BOUNDS, pooling.SLAB_RACE}),
    ("a slab that two blocks take for theirs", "positions/slab.cuh", "(gridDim.x, blockIdx.x)", "(gridDim.x, 0)",
     {pooling.SLAB_RACE}),
    ("a row of the result stored in another's place", "result_rows.cuh", "lower = place(element_row(i, 2))",
     "lower = place(element_row(i, 2)) + 1", {0}),
    ("two warps at one ring", "positions/products.cuh", "layout.rings_offset + warp * kRingBytes",
     "layout.rings_offset", {pooling.RACE}),
    ("rings in the place of the panel", "positions/products.cuh", "layout.rings_offset + warp",
     "layout.panel_offset + warp", {pooling.RACE}),
    ("a ring overwritten before the last of it is stored", "result_rows.cuh", "warp_barrier();  // the ring is free",
     "", {pooling.RACE}),
    ("columns before those of a panel stored again", "result_rows.cuh", "stored + max(row, first * kBlockSide)",
     "stored + row", {0}),
    ("a row of the gradient taken for another", "pooled.cuh", "= first + packed_index(8, 0, channels - row)",
     "= first + packed_index(7, 0, channels - row)", {0}),
    ("a row of the gradient below the diagonal taken for another", "pooled.cuh",
     "packed_index(c, r, channels - column)", "packed_index(c, r, channels - column - 1)", {0}),
    ("the first elements of the gradient forgotten", "positions/direction.cuh", "n < before ? n :", "n < before ? 0 :",
     {0}),
    ("the last elements of the gradient forgotten", "positions/direction.cuh", "n + aligned * at_once", "0", {0}),
    ("most of the gradient forgotten", "positions/direction.cuh", "bits.add(loaded[k].word[w])",
     "bits.add(loaded[k].word[0])", {0}),
    ("the identity of the factor forgotten", "positions/products.cuh", "plain(kept(workspace, Kept::kIdentity))",
     "plain(0.0f)", {0}),
    ("the identity of an iteration taken for that of the next", "iteration.cuh", "number / 3 - (of_two ? 1 : 0)",
     "number / 3", {0}),
    ("half of the trace term forgotten", "positions/backward.cuh", "0.5f * with_q.value + ", "", {0}),
    ("the span of the direction forgotten", "positions/gradient.cuh", "plain(kept(workspace, Kept::kSpan))",
     "plain(1.0f)", {0}),
]  # fmt: skip


# The same of plain covariances, which are built with all precisions.
COVARIANCE_FAULTS = [
    ("totals read before they are written", "covariance_pool/forward.cuh",
     "block_barrier();  // the totals are written", "", {pooling.RACE}),
    ("rings in the place of the totals", "covariance_pool/forward.cuh", "(workspace, Plane{0}, [&]",
     "(workspace, Plane{1}, [&]", {pooling.RACE}),
    ("sixteen bytes at an address that is not aligned", "result_rows.cuh", "start = triangle - before;",
     "start = triangle - before + 2;", {pooling.UNDEFINED}),
]  # fmt: skip


# A race, a barrier and lanes that diverge, memory that is not there, slabs, what is undefined, and a wrong result: with
# the other tests. All of them are for `make mutation`, since each has its kernels compiled.
WITH_THE_TESTS = {
    "no barrier before staged features are used", "barrier that some lanes skip",
    "features beyond the last position", "z q used before it is written",
    "sixteen bytes at an address that is not aligned", "the identity of the factor forgotten",
}  # fmt: skip


def cases(faults: Mapping[str, tuple[object, ...]]) -> list[ParameterSet]:
    """Give faults as parameters of a test, by their names."""
    marks = [pytest.mark.mutation]
    return [
        pytest.param(*fault, id=name, marks=marks + [pytest.mark.slow] * (name in WITH_THE_TESTS))
        for name, fault in faults.items()
    ]


def by_name(faults: Sequence[tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    found = {str(name): tuple(rest) for name, *rest in faults}
    assert len(found) == len(faults)
    return found


def source_of(csrc: Path, file: str) -> Path:
    (source,) = (path for path in csrc.rglob("*") if f"/{path}".endswith(f"/{file}"))
    return source


def planted(folder: Path, *faults: tuple[str, str, str], only: str = "-DCHANNELS_ONLY", fast: bool = True) -> Emulation:
    """Build the kernels of a side with some of their text replaced."""
    shutil.copytree(CSRC, folder / "csrc")
    for file, text, fault in faults:
        source = source_of(folder / "csrc", file)
        assert text in source.read_text(), "the kernel has changed: plant this fault in its new text"
        source.write_text(source.read_text().replace(text, fault))
    return Emulation(compiled(folder / "csrc", folder, *(["-DFAST_ONLY"] if fast else []), only))


def run_everything(emulation: Emulation) -> None:
    """Small sizes with edges, in each form of the kernels, against the reference."""
    torch.manual_seed(0)
    largest = SHARED_LIMITS["sm_90"]
    for c, limit, n_iter in ((70, largest, 4), (130, 40_000, 3), (40, largest, 3), (150, largest, 3)):
        emulation.shared_limit = limit
        check_pooling(emulation, inputs.relu_features(1, c, 19, FLOAT32), n_iter, "fast", "triu")


def test_the_texts_of_all_faults_are_there_and_named_ones_too():
    of_files = [(fault[1], fault[2]) for fault in (*FAULTS, *POSITIONS_FAULTS, *COVARIANCE_FAULTS)]
    of_files += [(file, text) for faults in SLAB_FAULTS.values() for file, text, _ in faults]
    of_files += [("staged_gradient.cuh", text) for text, _ in GRADIENT_FAULTS.values()]
    for file, text in of_files:
        assert text in source_of(CSRC, file).read_text(), f"{file} has changed: plant this fault in its new text"
    lists = (*map(by_name, (FAULTS, POSITIONS_FAULTS, COVARIANCE_FAULTS)), SLAB_FAULTS, GRADIENT_FAULTS)
    assert set().union(*lists) >= WITH_THE_TESTS


def test_everything_passes_unbroken(emulation):
    run_everything(emulation)


@pytest.mark.parametrize(("file", "text", "fault", "statuses"), cases(by_name(FAULTS)))
def test_a_planted_fault_is_caught(tmp_path, file, text, fault, statuses):
    broken = planted(tmp_path, (file, text, fault))
    with pytest.raises(AssertionError) as caught:
        run_everything(broken)
    status = caught.value.status if isinstance(caught.value, LaunchFailed) else 0
    assert status in statuses, caught.value


def run_covariance(emulation: Emulation) -> None:
    """Two samples with edges in two bytes an element, whose triangles begin anywhere."""
    torch.manual_seed(0)
    emulation.shared_limit = SHARED_LIMITS["sm_90"]
    check_covariance(emulation, inputs.relu_features(2, 70, 19, FLOAT16), None, "high", "triu")


@pytest.mark.parametrize(("file", "text", "fault", "statuses"), cases(by_name(COVARIANCE_FAULTS)))
def test_a_planted_fault_of_covariances_is_caught(emulation, tmp_path, file, text, fault, statuses):
    run_covariance(emulation)
    with pytest.raises(AssertionError) as caught:
        run_covariance(planted(tmp_path, (file, text, fault), only="-DCOVARIANCE_ONLY", fast=False))
    status = caught.value.status if isinstance(caught.value, LaunchFailed) else 0
    assert status in statuses, caught.value


# Of upstream gradients of other strides than a triangle has in one piece; the result is wrong.
GRADIENT_FAULTS = {
    "the stride of the first element forgotten": ("data + first * gradient.row_stride", "data + first"),
    "the stride of those that follow forgotten": ("threads * gradient.row_stride", "threads"),
    "columns of a matrix taken for its rows": (
        "row * gradient.row_stride + first * gradient.column_stride",
        "first * gradient.row_stride + row * gradient.column_stride",
    ),
    "the other half of a matrix forgotten": ("(row == column ? 0.0f : value_of(below[n]))", "0.0f"),
}


@pytest.mark.parametrize(("text", "fault"), cases(GRADIENT_FAULTS))
def test_a_fault_of_strided_gradients_is_caught(tmp_path, text, fault):
    broken = planted(tmp_path, ("staged_gradient.cuh", text, fault))
    broken.shared_limit = SHARED_LIMITS["sm_90"]
    with pytest.raises(AssertionError):
        check_strided_gradients(broken, inputs.relu_features(2, 100, 19, FLOAT32), "fast")


@pytest.mark.mutation
def test_a_gradient_staged_where_a_matrix_is_still_read_is_caught(tmp_path):
    broken = planted(
        tmp_path,
        ("isqrt_pool/matrices.h", ": plane_of(Matrices<true>::kDWRest, 1)", ": plane_of(Matrices<true>::kY, 1)"),
        ("isqrt_pool/matrices.h", "!kAgain.overlaps(of(B::kW)) && !kAgain.overlaps(of(B::kY))", "true"),
    )
    with pytest.raises(LaunchFailed) as caught:
        run_everything(broken)
    assert caught.value.status == pooling.RACE


@pytest.mark.parametrize("faults", cases({name: (faults,) for name, faults in SLAB_FAULTS.items()}))
def test_a_fault_of_slabs_is_caught(tmp_path, faults):
    broken = planted(tmp_path, *faults)
    broken.shared_limit = 16_000
    x = inputs.relu_features(2, 70, 19, FLOAT32)
    with pytest.raises(LaunchFailed) as caught:
        broken.isqrt_pool(x, 4, True, "fast")  # with a root before the last, which is read and written in a slab
    assert caught.value.status in (pooling.SLAB_RACE, pooling.OUT_OF_BOUNDS), caught.value


# Shared memory in which nine block rows of 20 positions pass through the panel three at a time; or one at a time, with
# three rings.
THREE_ROWS, ONE_ROW = 29_500, 15_000


def run_positions(emulation: Emulation) -> None:
    """Two samples with edges, resident and streamed, in one panel and in several; and one of many positions."""
    torch.manual_seed(0)
    largest = SHARED_LIMITS["sm_90"]
    for c, m, limit, n_iter in (
        (150, 70, largest, 4),
        (150, 70, 36_000, 3),
        (140, 20, THREE_ROWS, 3),
        (140, 20, ONE_ROW, 3),
        (40, 150, largest, 3),
    ):
        emulation.shared_limit = limit
        check_pooling(emulation, inputs.relu_features(2, c, m, FLOAT32), n_iter, "fast", "triu", side=POSITIONS)
    check_triangle(emulation, 70, 20, FLOAT16)


def test_everything_passes_unbroken_on_the_side_of_the_positions(emulation):
    run_positions(emulation)


@pytest.mark.parametrize(("file", "text", "fault", "statuses"), cases(by_name(POSITIONS_FAULTS)))
def test_a_planted_fault_on_the_side_of_the_positions_is_caught(tmp_path, file, text, fault, statuses):
    broken = planted(tmp_path, (file, text, fault), only="-DPOSITIONS_ONLY")
    with pytest.raises(AssertionError) as caught:
        run_positions(broken)
    status = caught.value.status if isinstance(caught.value, LaunchFailed) else 0
    assert status in statuses, caught.value
