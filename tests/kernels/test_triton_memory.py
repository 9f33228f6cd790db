"""What the Triton kernels touch in memory, as watched in the interpreter (triton_watch), and how wide offsets are."""

import mmap
from itertools import product

import pytest
import torch
from torch import Tensor

from tests.support import inputs
from tests.support import triton_forms as forms

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from gcp_kernels.ops.covariance_pool.triton import launch as plain
from gcp_kernels.ops.isqrt_pool.triton import launch as isqrt
from gcp_kernels.ops.isqrt_pool.triton import phases
from gcp_kernels.ops.triton_device import launch, triangle
from tests.support.triton_forms import interpreted, odd
from tests.support.triton_watch import Race, Watch

pytestmark = [pytest.mark.versions, forms.runs_here, forms.quiet]

TILING = forms.TILINGS[0]
C = 18
D = C * (C + 1) // 2


@triton.jit
def reads_beyond(x, out, C):
    tl.store(out, tl.load(x + C))


@triton.jit
def races(x, out, WHICH: tl.constexpr):
    program = tl.program_id(0)
    if WHICH == "barrier":
        tl.store(out + program, tl.load(x) + 1.0)
        tl.debug_barrier()
        tl.store(out + 2 + program, tl.load(out + program))
    elif WHICH == "no barrier":
        tl.store(out + program, tl.load(x) + 1.0)
        tl.store(out + 2 + program, tl.load(out + program))
    elif WHICH == "programs":
        tl.store(out + program, tl.load(x) + 1.0)
        tl.debug_barrier()
        tl.store(out + 2 + program, tl.load(out + 1 - program))
    elif WHICH == "written twice":
        tl.store(out, program.to(tl.float32))
        tl.store(out, 2.0)


@interpreted
def test_the_watch_sees_what_it_should(monkeypatch):
    watch = Watch(monkeypatch)
    x, out = torch.zeros(8)[:5], torch.zeros(4)
    races[(2,)](x, out, "barrier")
    for which in ("no barrier", "programs", "written twice"):
        with pytest.raises((Race, InterpreterError), match=r"read and|written"):
            races[(2,)](x, out, which)
    with pytest.raises(InterpreterError, match="1 of 1 elements read are of no argument"):
        reads_beyond[(1,)](x, out, 5)
    assert watch.launches == 5


@pytest.mark.sampled(2)
@interpreted
@pytest.mark.parametrize("output", ["triu", "full"])
@pytest.mark.parametrize("form", forms.FORMS)
def test_features_are_pooled_without_races_or_stray_accesses(form, output, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, C, 20, tiling=TILING, programs=1))
    watch = Watch(monkeypatch)
    n_iter = 3 if output == "triu" else 1
    forms.run(forms.pool(n_iter, "high", output), odd(2, C, 20), odd(2, D) if output == "triu" else odd(2, C, C))
    assert watch.launches == (10 + 4 * (n_iter - 1) if form == "phases" else 2)


@interpreted
@pytest.mark.parametrize("form", forms.FORMS)
def test_matrices_are_pooled_without_races_or_stray_accesses(form, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, C, 1, tiling=TILING, programs=1))
    watch = Watch(monkeypatch)
    forms.run(forms.root(2, "fast"), odd(2, C, C), odd(2, C, C))
    assert watch.launches


@interpreted
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("output", ["triu", "full"])
def test_covariances_are_pooled_without_races_or_stray_accesses(output, scaled, monkeypatch):
    monkeypatch.setattr(plain, "COVARIANCE", TILING)
    watch = Watch(monkeypatch)
    scale = odd(2, C).requires_grad_() if scaled else None
    grad = odd(2, D) if output == "triu" else odd(2, C, C)
    forms.run(forms.covariance(scale, output=output), odd(2, C, 20), grad)
    assert watch.launches == 2


def sparse(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype = torch.float16) -> Tensor:
    """Give a tensor of any extent that takes no memory but for the pages that are written."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    without_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        memory = mmap.mmap(-1, extent * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | without_reserve)
    except OSError as error:
        pytest.skip(f"no address space for {extent} elements: {error}")
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


def spread_out(tensor: Tensor, dim: int) -> Tensor:
    """Give a copy in which the elements of a sample lie 2^31 elements and more apart along dimension ``dim``."""
    strides = [3] * tensor.dim()
    strides[0] = 1
    strides[dim] = 2**31 // (tensor.shape[dim] - 1) + 5
    if tensor.dim() == 3:
        strides[3 - dim] = 7
    copy = sparse(tuple(tensor.shape), tuple(strides))
    assert launch.is_wide(copy)
    return copy.copy_(tensor)


KINDS = ("features_triu", "features_full", "matrices")
WIDE = [*product(forms.FORMS, KINDS), *product(["positions_shared"], KINDS[:2])]


@pytest.mark.sampled(5)
@interpreted
@pytest.mark.skipif(not hasattr(mmap, "MAP_PRIVATE"), reason="needs private mappings")
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("form", "kind"), WIDE)
def test_samples_that_span_2_to_the_31_elements(form, kind, dim, monkeypatch):
    """Bitwise what the same numbers give side by side: inputs, upstream gradients and gradients."""
    c, m = 5, 6
    choice = forms.choice_of(form, c, m, tiling=TILING)
    x = torch.randn(2, c, m).half() if kind != "matrices" else inputs.covariance_matrices(2, c, torch.float16)
    grad = torch.randn(2, c, c).half() if kind != "features_triu" else torch.randn(2, c * (c + 1) // 2).half()
    features, triu = kind != "matrices", kind == "features_triu"

    def results(x: Tensor, grad: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.empty(2, c * (c + 1) // 2) if triu else torch.empty(2, c, c)
        centre, trace = torch.empty(2, c) if features else None, torch.empty(2)
        isqrt.launch_forward(x, value, centre, trace, 2, "fast", choice)
        isqrt.launch_backward(grad, x, centre, trace, grad_x, 2, "fast", choice)
        return value, grad_x.clone(memory_format=torch.contiguous_format)

    expected = results(x, grad, torch.empty_like(x))
    Watch(monkeypatch)  # which raises before memory is touched that is not there
    wide = spread_out(x, dim), spread_out(grad, dim if grad.dim() == 3 else 1)
    grad_x = spread_out(torch.zeros_like(x), dim) if features else torch.empty_like(x)
    for ours, same in zip(results(*wide, grad_x), expected, strict=True):
        assert torch.equal(ours, same)


@pytest.mark.sampled(3)
@interpreted
@pytest.mark.skipif(not hasattr(mmap, "MAP_PRIVATE"), reason="needs private mappings")
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("output", ["triu", "full"])
def test_covariances_of_samples_that_span_2_to_the_31_elements(output, dim, monkeypatch):
    c, m, triu = 5, 6, output == "triu"
    x = torch.randn(2, c, m).half()
    grad = torch.randn(2, c * (c + 1) // 2).half() if triu else torch.randn(2, c, c).half()

    def results(x: Tensor, grad: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.empty(2, c * (c + 1) // 2) if triu else torch.empty(2, c, c)
        centre = torch.empty(2, c)
        plain.launch_forward(x, None, value, centre, "fast", TILING)
        plain.launch_backward(grad, x, None, centre, grad_x, None, "fast", TILING)
        return value, grad_x.clone(memory_format=torch.contiguous_format)

    expected = results(x, grad, torch.empty_like(x))
    Watch(monkeypatch)
    wide = spread_out(x, dim), spread_out(grad, 1 if triu else dim), spread_out(torch.zeros_like(x), dim)
    for ours, same in zip(results(*wide), expected, strict=True):
        assert torch.equal(ours, same)


@interpreted
@pytest.mark.skipif(not hasattr(mmap, "MAP_PRIVATE"), reason="needs private mappings")
def test_scales_that_span_2_to_the_31_elements(monkeypatch):
    """As a scale does that is one position of features of such an extent."""
    x, scale = torch.randn(2, 5, 6), torch.randn(2, 5)
    value, expected, centre = torch.empty(2, 5, 5), torch.empty(2, 5, 5), torch.empty(2, 5)
    plain.launch_forward(x, scale.half(), expected, centre, "fast", TILING)
    Watch(monkeypatch)
    plain.launch_forward(x, spread_out(scale, 1), value, centre, "fast", TILING)
    assert torch.equal(value, expected)


@pytest.mark.parametrize("form", forms.FORMS)
def test_wide_offsets_change_nothing(form, monkeypatch):
    forms.force(monkeypatch, forms.choice_of(form, C, 20, tiling=TILING))
    x, cov, grad = torch.randn(1, C, 20), inputs.covariance_matrices(1, C, torch.float32), torch.randn(1, C, C)
    functions = ((forms.pool(1, output="full"), x), (forms.root(1), cov), (forms.covariance(), x))
    narrow = [forms.run(function, given, grad) for function, given in functions]
    for module in (isqrt, plain):
        monkeypatch.setattr(module, "is_wide", lambda *_: True)
    for (function, given), expected in zip(functions, narrow, strict=True):
        for ours, same in zip(forms.run(function, given, grad), expected, strict=True):
            assert torch.equal(ours, same)


def test_a_sample_is_wide_from_2_to_the_31_elements_on():
    def of(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        return torch.empty(1, device="meta").as_strided(shape, strides)

    assert not launch.is_wide(of((9, 3, 2), (2**40, 2**30 - 4, 7)))  # the last element is 2^31 - 1 on
    assert launch.is_wide(of((9, 3, 2), (2**40, 2**30 - 4, 8)))
    assert launch.is_wide(of((9, 3, 2), (0, 1, 2**31)))
    assert launch.is_wide(of((1, 2**31 + 1), (0, 1)))
    assert not launch.is_wide(of((1, 2**31), (0, 1)))
    assert not launch.is_wide(of((7, 1, 1), (2**40, 2**40, 2**40)))
    assert not launch.is_wide(torch.ones(1).expand(2**20, 2**20, 2**20))
    assert launch.is_wide(torch.ones(1, 2, 3), of((1, 2, 2), (0, 2**31, 1)))


def test_the_alignment_of_features_divides_what_offsets_are_made_of():
    def of(strides: tuple[int, ...], dtype: torch.dtype = torch.float16) -> Tensor:
        return torch.empty(1, device="meta", dtype=dtype).expand(4, 8, 196).as_strided((4, 8, 196), strides)

    assert launch.alignment(196, of((8 * 196, 196, 1))) == 4
    assert launch.alignment(64, of((512, 64, 1))) == 8  # 16 bytes
    assert launch.alignment(64, of((512, 64, 1), torch.float32)) == 4
    assert launch.alignment(49, of((392, 49, 1))) == 1
    assert launch.alignment(64, of((512, 66, 1))) == 2
    assert launch.alignment(64, of((515, 64, 1))) == 1
    assert launch.alignment(64, of((0, 64, 1))) == 8  # one sample, expanded
    assert launch.alignment(64, of((512, 1, 8))) == 1
    assert launch.alignment(64, of((512, 64, 1)), of((512, 1, 8))) == 1
    assert launch.alignment(64, of((512, 64, 1)), of((520, 68, 1))) == 4


@pytest.mark.sampled(5)
@pytest.mark.parametrize("m", [4, 8, 12, 20])
@pytest.mark.parametrize("form", forms.FORMS)
def test_wider_loads_change_nothing(form, m, monkeypatch):
    """What the same numbers give whose positions are not adjacent, element by element."""
    forms.force(monkeypatch, forms.choice_of(form, C, m, tiling=TILING))
    x, grad = torch.randn(1, C, m), torch.randn(1, C, C)
    apart = torch.stack([x, x], dim=-1)[..., 0]
    assert launch.alignment(m, x) == 4
    assert launch.alignment(m, forms.on_device(apart)) == 1
    for function in (forms.pool(1, output="full"), forms.covariance()):
        forms.assert_unchanged_by_strides(forms.run(function, x, grad), forms.run(function, apart, grad))


@triton.jit
def sum_and_largest(parts, out, count):
    tl.store(out, phases.sum_of(parts, count))
    tl.store(out + 1, phases.largest_of(parts, count))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_any_number_of_parts_is_added_up(count, monkeypatch):
    parts = torch.full((count + 70,), float("nan"), device=forms.DEVICE)
    parts[:count] = torch.arange(1.0, count + 1)
    out = torch.empty(2, device=forms.DEVICE)
    sum_and_largest[(1,)](parts, out, count)
    assert out.tolist() == [count * (count + 1) / 2, count]


@triton.jit
def upper_tiles(rows, columns, COUNT: tl.constexpr):
    index = tl.arange(0, COUNT)
    i, j = triangle.upper_tile(index)
    tl.store(rows + index, i)
    tl.store(columns + index, j)


def test_upper_tiles_of_the_largest_matrices():
    """128 blocks, those of 8192 channels: column after column, by the definition."""
    rows, columns = (torch.empty(16384, dtype=torch.int32, device=forms.DEVICE) for _ in range(2))
    upper_tiles[(1,)](rows, columns, 16384)
    expected = [(i, j) for j in range(128) for i in range(j + 1)]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True))[: len(expected)] == expected
