"""Launch choices of the Triton backend, over a grid of shapes and devices: legal, bounded and pure."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from functools import cache
from itertools import pairwise, product

import pytest
import torch

from gcp_kernels.ops.sides import CHANNELS, POSITIONS, iterated_and_summed
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.launch import new_slabs
from gcp_kernels.ops.triton_device.policy import OnChip, Persistent, Phases, Tiling

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions]

BATCHES = (1, 2, 3, 9, 10, 33, 34, 53, 54, 65, 66, 67, 74, 148, 264, 297, 1024)
WIDTHS = (1, 2, 15, 16, 17, 32, 33, 63, 64, 65, 127, 128, 129, 160, 192, 193, 256, 257, 512, 1000, 2048)
LENGTHS = (1, 2, 15, 49, 196, 197, 255, 256, 511, 784, 1568, 3136, 4096, 4097, 4352, 10001, 25000)
SHAPES = tuple(product(BATCHES, WIDTHS, LENGTHS))
# The last is newer than any table.
CAPABILITIES = (80, 86, 89, 90, 100, 103, 120, 121, 130)
MULTIPROCESSORS = (20, 68, 108, 148)
CHOOSERS = {"forward": policy.isqrt_forward, "backward": policy.isqrt_backward}

# Threads of a block: 1024.
MOST_WARPS = 32
FLOAT16, FLOAT32 = 2, 4


def is_power_of_two(number):
    return number >= 1 and number & (number - 1) == 0


def assert_legal_launch(choice):
    assert is_power_of_two(choice.warps)
    assert choice.warps <= MOST_WARPS
    assert 1 <= choice.stages <= 5


@cache
def assert_legal_tiling(tiling, c):
    for side in (tiling.block, tiling.block_k, tiling.block_m):
        # A range of Triton has a power of two elements, and a product on tensor cores 16 at least.
        assert is_power_of_two(side)
        assert side >= 16
    # A product walks a slab's side, a multiple of the block, in steps of block_k and without a mask.
    assert tiling.block % tiling.block_k == 0
    assert tiling.block * (tiling.blocks(c) - 1) < c <= tiling.block * tiling.blocks(c)
    assert tiling.tiles(c) == sum(1 for i in range(tiling.blocks(c)) for j in range(i, tiling.blocks(c)))
    assert_legal_launch(tiling)


def assert_legal(choice, b, c, m, arch):
    if isinstance(choice, OnChip):
        for side in (choice.block_c, choice.block_m):
            assert is_power_of_two(side)
            assert side >= 16
        assert choice.size >= (m if choice.side == POSITIONS else c)
        if choice.shared:
            assert choice.side == POSITIONS
            assert b < 2 * arch.multiprocessors
            assert choice.block_c < c <= choice.block_c * choice.blocks(c)
        assert_legal_launch(choice)
    elif isinstance(choice, Persistent):
        size, _ = iterated_and_summed(choice.side, c, m)
        assert_legal_tiling(choice.tiling, size)
        assert 1 <= choice.programs <= b
        padded = choice.tiling.block * choice.tiling.blocks(size)
        # Two planes of ten matrices and, on the side of the positions, of a panel of C rows.
        slab_bytes = 40 * padded**2 + (4 * c * padded if choice.side == POSITIONS else 0)
        affordable = max(1, policy.SLAB_BYTES // slab_bytes)
        assert min(b, arch.multiprocessors, affordable) <= choice.programs <= affordable
        # 65536 registers of a multiprocessor, at most 255 for a thread.
        assert -(-choice.programs // arch.multiprocessors) * choice.tiling.warps * 32 * 256 <= 65536
    else:
        assert isinstance(choice, Phases)
        size, summed = iterated_and_summed(choice.side, c, m)
        assert_legal_tiling(choice.tiling, size)
        assert_covered_once(choice, summed)


def assert_covered_once(choice, m):
    """Parts of ``chunk`` positions (or channels), in whole steps of block_m, cover all m of them; none is empty."""
    assert choice.chunk >= 1
    assert choice.chunk % choice.tiling.block_m == 0
    bounds = [(part * choice.chunk, min((part + 1) * choice.chunk, m)) for part in range(choice.splits)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == m
    assert all(start < stop for start, stop in bounds)
    assert all(before[1] == after[0] for before, after in pairwise(bounds))


def walk(direction, precision, capability):
    """Every choice of the grid, with what it was made for."""
    for multiprocessors in MULTIPROCESSORS:
        arch = Architecture(capability, multiprocessors)
        for b, c, m in SHAPES:
            yield b, c, m, arch, CHOOSERS[direction](b, c, m, precision, arch)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", policy.PLANES)
@pytest.mark.parametrize("direction", CHOOSERS)
def test_every_choice_is_legal(direction, precision, capability):
    seen = set()
    for b, c, m, arch, choice in walk(direction, precision, capability):
        seen.add(type(choice))
        try:
            assert_legal(choice, b, c, m, arch)
        except AssertionError as error:
            raise AssertionError(f"B={b} C={c} M={m} on {arch}: {choice}: {error}") from error
    assert seen == {OnChip, Persistent, Phases}, "else the walk proves nothing of a form"


@pytest.mark.parametrize("direction", CHOOSERS)
@pytest.mark.parametrize("precision", policy.PLANES)
def test_scratch_does_not_grow_with_the_batch(direction, precision):
    """Slabs are at most two for each multiprocessor; parts of covariances at most a tile more than fill them once."""
    tangents = direction == "backward"
    for b, channels, m, arch, choice in walk(direction, precision, 90):
        if isinstance(choice, OnChip):
            continue
        tiling, (c, _) = choice.tiling, iterated_and_summed(choice.side, channels, m)
        count = choice.programs if isinstance(choice, Persistent) else b
        slabs = new_slabs(torch.empty(0, device="meta"), count, tiling.blocks(c) * tiling.block, tangents)
        # Five matrices, as many tangents, two planes each, of less than a tile more than C channels.
        side = c + tiling.block - 1
        assert slabs.nbytes <= 2 * arch.multiprocessors * (20 if tangents else 10) * side * side * FLOAT16
        if isinstance(choice, Phases):
            parts = b * tiling.tiles(c) * choice.splits * tiling.block**2 * FLOAT32
            assert parts <= (arch.multiprocessors + b * tiling.tiles(c)) * tiling.block**2 * FLOAT32


@pytest.mark.parametrize("direction", CHOOSERS)
def test_offsets_in_a_slab_fit_32_bits(direction):
    """For as many channels as the backend takes: a slab's last element is below 2^31."""
    from gcp_kernels.ops.triton_device import backend as triton

    for precision, capability in product(policy.PLANES, CAPABILITIES):
        choice = CHOOSERS[direction](
            1024, triton.MOST_CHANNELS, triton.MOST_CHANNELS, precision, Architecture(capability, 108)
        )
        side = choice.tiling.blocks(triton.MOST_CHANNELS) * choice.tiling.block
        slab = new_slabs(torch.empty(0, device="meta"), 1, side, direction == "backward")
        assert slab.numel() <= 2**31


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("direction", CHOOSERS)
def test_the_same_question_gets_the_same_answer(direction, capability):
    asked = list(walk(direction, "fast", capability))
    for b, c, m, arch, choice in asked[::-97]:
        assert CHOOSERS[direction](b, c, m, "fast", arch) == choice


def test_larger_matrices_never_get_a_smaller_block_on_chip():
    for capability, planes in product(CAPABILITIES, policy.PLANES.values()):
        table = policy.choices(Architecture(capability, 108))
        for side, shipped in (
            (CHANNELS, (table.on_chip_forward[planes], table.on_chip_backward[planes])),
            (POSITIONS, (table.positions_forward[planes], table.positions_backward[planes])),
        ):
            for choices in shipped:
                assert {choice.side for choice in choices} == {side}
                sizes = [choice.size for choice in choices]
                assert sizes == sorted(set(sizes))


def test_the_side_is_that_of_the_smaller_matrices():
    """In blocks of 16, 32, 64 and multiples of 64; and by a tenth, see policy."""
    positions = [(17, 16), (33, 32), (65, 64), (65, 1), (256, 49), (2048, 49), (8192, 64)]
    channels = [(1, 1), (16, 16), (16, 1), (32, 17), (64, 33), (64, 64), (64, 49), (64, 4096), (49, 50), (2, 1)]
    assert {policy.side_of(*shape) for shape in positions} == {POSITIONS}
    assert {policy.side_of(*shape) for shape in channels} == {CHANNELS}


@pytest.mark.parametrize("direction", CHOOSERS)
def test_the_side_does_not_depend_on_the_batch_or_the_pass(direction):
    for precision, capability in product(policy.PLANES, CAPABILITIES):
        for b, c, m, _, choice in walk(direction, precision, capability):
            assert choice.side == policy.side_of(c, m), (b, c, m)


def test_matrices_that_are_given_have_no_positions():
    for b, c, capability in product(BATCHES, WIDTHS, CAPABILITIES):
        for choose in (policy.sqrt_forward, policy.sqrt_backward):
            choice = choose(b, c, "high", Architecture(capability, 108))
            assert choice.side == CHANNELS
            assert_legal(choice, b, c, 1, Architecture(capability, 108))


def test_programs_share_a_sample_where_few_have_many_channels():
    rule = policy.Thresholds(shared_samples=0.5, shared_blocks=4)
    assert rule.wants_sharing(65, 5, 132)
    assert not rule.wants_sharing(66, 5, 132)
    assert not rule.wants_sharing(1, 4, 132)
    shared = policy.isqrt_forward(4, 2048, 49, "fast", Architecture(90, 132))
    assert shared == replace(policy.HOPPER.positions_forward[1][-1], shared=True)


def test_a_later_architecture_gets_the_newest_table():
    assert policy.choices(Architecture(130, 200)) is policy.choices(Architecture(120, 170))


def test_tables_cover_both_precisions():
    for capability in CAPABILITIES:
        table = policy.choices(Architecture(capability, 108))
        for field in fields(table):
            if field.name != "thresholds":
                assert set(getattr(table, field.name)) == set(policy.PLANES.values()), field.name


def test_phases_are_launched_where_few_samples_are_worth_their_launches():
    rule = policy.Thresholds(samples=0.5, blocks=2, positions=4096)
    assert rule.wants_phases(65, 49, 3, 132)
    assert not rule.wants_phases(66, 49, 3, 132)
    assert not rule.wants_phases(1, 4096, 2, 132)
    assert rule.wants_phases(1, 4097, 1, 132)
    assert not policy.Thresholds(samples=0.0).wants_phases(1, 10**6, 99, 132)


@pytest.mark.parametrize("kind", [Architecture, OnChip, Tiling, Persistent, Phases, policy.Thresholds, policy.Choices])
def test_configurations_are_frozen(kind):
    assert is_dataclass(kind)
    instance = kind(*range(1, len(fields(kind)) + 1))
    with pytest.raises(FrozenInstanceError):
        setattr(instance, fields(kind)[0].name, 1)


TILING = Tiling(64, block_k=32, block_m=16, warps=4)


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        (OnChip(48, 32, warps=4), "no power of two"),
        (OnChip(32, 32, warps=4), "fewer than C"),
        (OnChip(64, 8, warps=4), "too few positions"),
        (OnChip(64, 32, warps=3), "warps"),
        (OnChip(64, 32, warps=4, stages=0), "stages"),
        (OnChip(64, 128, warps=4, side=POSITIONS), "fewer than M"),
        (OnChip(64, 256, warps=4, side=POSITIONS, shared=True), "shared by as many samples as multiprocessors"),
        (OnChip(64, 32, warps=4, shared=True), "shared on the side of the channels"),
        (Persistent(TILING, programs=0), "no program"),
        (Persistent(TILING, programs=301), "more programs than samples"),
        (Persistent(TILING, programs=50), "idle multiprocessors"),
        (Persistent(Tiling(64, block_k=32, block_m=16, warps=8), programs=216), "too many registers"),
        (Persistent(Tiling(64, block_k=48, block_m=16, warps=4), programs=108), "a block that is no multiple"),
        (Persistent(Tiling(32, block_k=64, block_m=16, warps=4), programs=108), "a block that is no multiple"),
        (Phases(TILING, splits=2, chunk=104), "a chunk that is no multiple"),
        (Phases(TILING, splits=1, chunk=96), "positions left out"),
        (Phases(TILING, splits=3, chunk=112), "an empty part"),
        (Phases(TILING, splits=2, chunk=96), "positions left out"),
    ],
)
def test_what_is_illegal_is_found(choice, why):
    with pytest.raises(AssertionError):
        assert_legal(choice, b=300, c=50, m=196, arch=Architecture(80, 108))
