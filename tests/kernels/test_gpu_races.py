"""Races of kernels: the same samples again and again must give the same bits, whatever was in memory before.

A missing barrier is wrong only now and then, and only where threads run at the same time. So on a GPU each launch is
repeated 200 times, with more samples than programs (a slab is used again while other programs are at work), and before
each launch slabs and results are filled with NaN: what is read too early is no number, or that of another sample. In
the interpreter, where nothing runs at the same time, the same functions run twice and show that they work; there the
accesses themselves are watched instead (triton_watch).
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.support import inputs, tolerances
from tests.support import triton_forms as forms

pytest.importorskip("triton")

from benchmarks.codegen.triton_kernels import KernelCase
from benchmarks.sanitize.checks import ARITHMETIC, LaunchCheck
from benchmarks.sanitize.triton_pass import Pass
from gcp_kernels import covariance_pool, fused_gcp
from gcp_kernels.ops import backends
from gcp_kernels.ops.isqrt_pool.triton import launch, phase_launches
from gcp_kernels.ops.isqrt_pool.triton.positions import phase_launches as position_phases
from gcp_kernels.ops.isqrt_pool.triton.positions import slab_launch
from gcp_kernels.ops.sides import POSITIONS
from gcp_kernels.ops.triton_device import architecture, policy
from gcp_kernels.ops.triton_device.policy import OnChip, Persistent, Phases, Tiling
from gcp_kernels.precision import PLANES
from tests.support.triton_watch import Watch

pytestmark = [pytest.mark.versions, pytest.mark.kernels_of_checks, forms.runs_here, forms.quiet]
ON_GPU = forms.DEVICE == "cuda"
REPEATS = 200 if ON_GPU else 2
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
NAN = float("nan")
SMALL = Tiling(16, block_k=16, block_m=16, warps=1)


def case_of(choice: policy.Config | Tiling, backward: bool, precision: str, c: int, **options) -> KernelCase:
    """More samples than programs, of which a multiprocessor has two at most."""
    multiprocessors = architecture.architecture(DEVICE).multiprocessors
    b, m, n_iter = (4 * multiprocessors + 1, 49, 5) if ON_GPU else (3, 17, 2)
    dtype = getattr(torch, ARITHMETIC[precision])
    return KernelCase(choice, backward, precision, dtype, c, **{"b": b, "m": m, "n_iter": n_iter, **options})


def cases() -> Iterator[KernelCase]:
    """On a GPU all shipped configurations, and persistent ones with a program for each multiprocessor; here small ones.

    Phases with the covariance of a sample in several parts.
    """
    arch = architecture.architecture(DEVICE)
    table = policy.choices(arch)
    for precision, planes in PLANES.items():
        for backward in (False, True):
            case = partial(case_of, backward=backward, precision=precision)
            if not ON_GPU:
                if backward == (precision == "fast"):
                    continue  # one precision for each direction: what is repeated there has nothing to lose
                for form in (*forms.FORMS, *forms.POSITION_FORMS):
                    yield case(forms.choice_of(form, 20, 17, tiling=SMALL, programs=2, parts=2), c=20)
                for choice in (Persistent(SMALL, 2, side=POSITIONS), Phases(SMALL, splits=2, chunk=16, side=POSITIONS)):
                    yield case(choice, c=20)
                yield case(SMALL, c=20, source="scaled features")
                continue
            on_chip = (table.on_chip_backward if backward else table.on_chip_forward)[planes]
            yield from (case(choice, c=choice.block_c) for choice in on_chip)
            positions = (table.positions_backward if backward else table.positions_forward)[planes]
            for choice in (*positions, dataclasses.replace(positions[-1], shared=True)):
                yield case(choice, c=256, m=choice.block_m)
            tiling = (table.backward if backward else table.forward)[planes]
            for c in (64, 100, 176, 256):
                # As many programs as for any large batch: each takes two samples, and one of them three.
                yield case(policy.persistent(1 << 20, c, tiling, arch), c=c)
            yield case(Persistent(tiling, 2), c=100, b=9)
            yield case(policy.persistent(1 << 20, 300, tiling, arch, positions=196), c=300, m=196)
            tiling = table.phases[planes]
            chunk = tiling.block_m
            yield case(Phases(tiling, splits=-(-49 // chunk), chunk=chunk), c=256)
            yield case(Phases(tiling, splits=-(-300 // chunk), chunk=chunk, side=POSITIONS), c=300, m=196)
            yield case(policy.COVARIANCE, c=256)
            yield case(policy.COVARIANCE, c=100, source="scaled features")


def name_of(case: KernelCase) -> str:
    programs = f" {case.choice.programs} programs" if isinstance(case.choice, Persistent) else ""
    return str(LaunchCheck(case)).removeprefix("triton ") + programs


@pytest.fixture
def poisoned_slabs(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Slabs and panels of the Triton kernels are NaN before the launch; gives the shape of each slab asked for."""
    # Not the slabs themselves: those of 200 launches would fill the memory of any GPU.
    given = []

    def poisoned(make: Callable[..., Tensor], *args, **options) -> Tensor:
        memory = make(*args, **options).fill_(NAN)
        if make.__name__ == "new_slabs":
            given.append(memory.shape)
        return memory

    for module in (launch, phase_launches, slab_launch, position_phases):
        for name in {"new_slabs", "new_panels"} & set(vars(module)):
            monkeypatch.setattr(module, name, partial(poisoned, getattr(module, name)))
    return given


def assert_repeats(first: list[Tensor], launch_once: Callable[[], list[Tensor]], repeats: int = REPEATS) -> None:
    """Check that each repeat gives the first results, bit for bit."""
    # Counted on the device, so that launches follow one another without a wait.
    differing = torch.zeros(len(first), dtype=torch.int64, device=first[0].device)
    for _ in range(repeats):
        for place, (one, same) in enumerate(zip(launch_once(), first, strict=True)):
            differing[place] += (one != same).any() | one.isnan().any()
    assert differing.tolist() == [0] * len(first), f"of {repeats} repeats so many differ, for each result"


def test_a_result_that_changes_now_and_then_is_seen():
    """Once in two hundred times, in one element; and NaN every time, though no bit of it changes."""
    launches = iter(range(1000))

    def sometimes() -> list[Tensor]:
        return [torch.ones(3), torch.tensor([0.0, 1.0 if next(launches) == 99 else 2.0])]

    with pytest.raises(AssertionError, match=r"\[0, 1\]"):
        assert_repeats(sometimes(), sometimes, 200)
    with pytest.raises(AssertionError, match=r"\[200\]"):
        assert_repeats([torch.tensor([NAN])], lambda: [torch.tensor([NAN])], 200)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", list(cases()), ids=name_of)
def test_triton_launches_repeat_bit_for_bit(case: KernelCase, poisoned_slabs: list[torch.Size]) -> None:
    held = Pass(case, DEVICE)

    def launch_once() -> list[Tensor]:
        for result in held.filled:
            result.fill_(NAN)
        held.call(case)()
        return held.filled

    assert held.error(case) <= LaunchCheck(case).limit
    assert_repeats([one.clone() for one in held.filled], launch_once)
    assert len(poisoned_slabs) == (REPEATS + 1 if isinstance(case.choice, Persistent | Phases) else 0)
    if isinstance(case.choice, OnChip | Persistent):
        assert case.b > getattr(case.choice, "programs", 0)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("precision", PLANES)
def test_persistent_against_phases(precision: str, backward: bool, poisoned_slabs: list[torch.Size]) -> None:
    """Whole launches stand between phases in one form, block barriers in the other; a tile is computed alike.

    In the interpreter they agree bit for bit forward, for features whose statistics are exact (integers, M a power of
    two), since nothing but the trace is added up in another order. Backward the trace term is too, of several tiles:
    within the roundings of a float32 sum. On a GPU, in the shipped tiles of each form, they agree within the promise.
    """
    whole = by_phase = SMALL
    if ON_GPU:
        table, planes = policy.choices(architecture.architecture(DEVICE)), PLANES[precision]
        whole, by_phase = (table.backward if backward else table.forward)[planes], table.phases[planes]
    results = []
    for choice in (Persistent(whole, programs=2), Phases(by_phase, splits=1, chunk=64)):
        case = case_of(choice, backward, precision, 256 if ON_GPU else 20, m=49 if ON_GPU else 16)
        held = Pass(case, DEVICE)
        # The same numbers in both: those of a pass are drawn from a seed.
        held.tensors.source.copy_(torch.randint(-8, 9, held.tensors.source.shape, generator=torch.manual_seed(1)))
        if backward:
            held._fill_statistics()
        assert held.error(case) <= LaunchCheck(case).limit
        results.append(held.filled)
    for persistent, phase in zip(*results, strict=True):
        if ON_GPU:
            tolerances.assert_promise_kept(persistent, phase.cpu().double(), precision, "persistent against phases")
        elif not backward:
            assert torch.equal(persistent, phase)
        else:
            error = tolerances.relative_error(persistent, phase.double())
            bound = tolerances.FLOOR * tolerances.unit_roundoff(torch.float32)
            assert error <= bound + tolerances.unit_roundoff(persistent.dtype) * (precision == "fast")


POOLS = {
    "isqrt": partial(fused_gcp, n_iter=5),
    "covariance": covariance_pool,
    "scaled covariance": covariance_pool,
}
# Of the CUDA kernels, small, middle, resident and streamed matrices, of channels and then of positions; with one warp
# and with sixteen.
ISQRT_SHAPES = (
    *((32, 49), (64, 49), (100, 300), (140, 300), (176, 300), (256, 300)),
    *((96, 49), (300, 100), (200, 140), (300, 196), (300, 256)),
)
FUNCTIONS = [
    *(
        pytest.param("cuda", name, c, m, marks=pytest.mark.gpu, id=f"cuda {name} C={c} M={m}")
        for name in POOLS
        for c, m in (ISQRT_SHAPES if name == "isqrt" else ((60, 49), (100, 49), (140, 49), (256, 49)))
    ),
    *(pytest.param("triton", name, *((100, 49) if ON_GPU else (12, 6)), id=f"triton {name}") for name in POOLS),
]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("precision", PLANES)
@pytest.mark.parametrize(("backend", "name", "c", "m"), FUNCTIONS)
def test_functions_repeat_bit_for_bit(backend: str, name: str, c: int, m: int, precision: str) -> None:
    """As users call them; memory that is asked for, slabs of the CUDA kernels included, comes filled with NaN."""
    b = 2 * architecture.architecture(DEVICE).multiprocessors + 3 if ON_GPU else 3
    x = inputs.relu_features(b, c, m, torch.float32).to(DEVICE).requires_grad_()
    operation = "isqrt_pool" if name == "isqrt" else "covariance_pool"
    if (reason := backends.BACKENDS[backend].why_not(operation, x, precision)) is not None:
        pytest.skip(f"{backend} cannot run it here: {reason}")
    leaves, options = [x], {}
    if name.startswith("scaled"):
        options["scale"] = (torch.rand(b, c, device=DEVICE) + 0.5).requires_grad_()
        leaves.append(options["scale"])
    upstream = torch.randn(b, c * (c + 1) // 2, device=DEVICE)

    def value_and_gradients() -> list[Tensor]:
        value = POOLS[name](x, output="triu", precision=precision, backend=backend, **options)
        return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]

    assert_repeats(value_and_gradients(), value_and_gradients)


@pytest.mark.skipif(ON_GPU, reason="kernels are watched in the interpreter")
@pytest.mark.parametrize(("n_iter", "backward"), [(4, False), (5, False), (6, True)])
def test_no_phase_reads_what_it_writes(n_iter: int, backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every turn that W, Y and the free matrix take in a slab: four steps, and the last iterate after each of three.

    Only so are the tiles of a phase independent, whatever the order of warps, tiles and steps of the k loop.
    """
    case = case_of(Persistent(SMALL, programs=1), backward, "high", 18, b=1, m=16, n_iter=n_iter)
    watch = Watch(monkeypatch)
    assert Pass(case, DEVICE).error(case) <= LaunchCheck(case).limit
    assert watch.launches == 1
