"""The order of "auto" on a GPU: it follows the table of times, whatever its figures, and every shape has a row."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import rows
from gcp_kernels import fused_gcp
from gcp_kernels.__main__ import main
from gcp_kernels.ops import backends, operators, times
from gcp_kernels.ops.times import TABLE, UNBOUNDED, UNCERTAINTY, Row, Times
from gcp_kernels.precision import PRECISIONS

ROOT = Path(__file__).parents[2]
ON_A_GPU = ("cuda", "triton", "torch")
EVERYWHERE = range(1, UNBOUNDED)
# What the errors of two predictions leave uncertain about their ratio, in another form than that of the table.
MARGIN = UNCERTAINTY ** math.sqrt(2)

ids = [str(row) for row in TABLE]


def row(*found: Times) -> Row:
    return Row("isqrt_pool", "fast", EVERYWHERE, EVERYWHERE, (256, 196), found, "made up")


def predicted(backend: str, forward: float, backward: float) -> Times:
    return Times(backend, forward, backward, "made up")


def measured(backend: str, forward: float, backward: float) -> Times:
    return Times(backend, forward, backward, "made up", measured=True)


# --- the rule ---


TRITON_FIRST = ("triton", "cuda", "torch")


def test_a_clearly_faster_backend_goes_first():
    assert row(predicted("cuda", 20, 20), predicted("triton", 20, 15)).order(ON_A_GPU, True) == ON_A_GPU
    for backward in (False, True):
        assert row(predicted("cuda", 99, 99), predicted("triton", 9, 9)).order(ON_A_GPU, backward) == TRITON_FIRST
        assert row(predicted("cuda", 9, 9), predicted("triton", 99, 99)).order(ON_A_GPU, backward) == ON_A_GPU


def test_each_pass_has_its_own_order():
    found = row(measured("cuda", 20, 10), measured("triton", 10, 20))
    assert (found.order(ON_A_GPU, False), found.order(ON_A_GPU, True)) == (TRITON_FIRST, ON_A_GPU)


def test_of_a_pass_that_was_not_measured_the_prediction_counts():
    cuda, triton = measured("cuda", 20, 20), predicted("triton", 90, 1)
    found = row(cuda, triton, measured("triton", 10, None))
    assert found.times_of("triton", False).measured
    assert not found.times_of("triton", True).measured
    assert found.order(ON_A_GPU, False) == found.order(ON_A_GPU, True) == TRITON_FIRST
    assert row(cuda, measured("triton", 10, None)).order(ON_A_GPU, True) == ON_A_GPU


@pytest.mark.parametrize(
    ("cuda", "triton", "margin"),
    [(predicted, predicted, MARGIN), (predicted, measured, UNCERTAINTY), (measured, predicted, UNCERTAINTY),
     (measured, measured, 1.0)],
)  # fmt: skip
def test_what_is_uncertain_changes_nothing(cuda, triton, margin):
    """None is left once both are measured."""
    assert 1.0 <= margin < 5.0
    for factor, expected in ((0.99 * margin, ON_A_GPU), (1.01 * margin, TRITON_FIRST)):
        found = row(cuda("cuda", 20 * factor, 30 * factor), triton("triton", 20, 30))
        assert found.order(ON_A_GPU, False) == found.order(ON_A_GPU, True) == expected


def test_a_measured_time_counts_instead_of_a_predicted_one():
    cuda, triton = predicted("cuda", 10, 10), predicted("triton", 10, 10)
    assert row(cuda, triton).order(ON_A_GPU, False) == ON_A_GPU
    for found in itertools.permutations((cuda, triton, measured("cuda", 40, 40))):
        assert row(*found).order(ON_A_GPU, False) == TRITON_FIRST
        assert row(*found).times_of("cuda", False).measured
    # Slower than predicted, it loses a place that the prediction gave.
    won = row(predicted("cuda", 60, 60), triton)
    assert won.order(ON_A_GPU, True) == TRITON_FIRST
    assert replace(won, times=(*won.times, measured("triton", 80, 80))).order(ON_A_GPU, True) == ON_A_GPU


def test_a_backend_without_a_time_stays_where_it_is():
    for known in ((), (predicted("cuda", 900, 900),), (predicted("triton", 1, 1),), (predicted("torch", 1, 1),)):
        assert row(*known).order(ON_A_GPU, False) == ON_A_GPU
    passes_both = row(predicted("cuda", 9, 9), predicted("triton", 9, 9), predicted("torch", 1, 1))
    assert passes_both.order(ON_A_GPU, False) == ("torch", "cuda", "triton")


# --- the table ---


@pytest.mark.parametrize("entry", TABLE, ids=ids)
def test_a_row_has_its_figures_their_sources_and_a_reason(entry):
    assert len(entry.reason.split()) >= 8
    assert entry.times
    assert entry.covers(entry.operation, *entry.shape, entry.precision)
    for found in entry.times:
        assert found.backend in backends.BACKENDS
        known = [time for time in (found.forward, found.backward) if time is not None]
        assert known
        assert all(math.isfinite(time) and time > 0 for time in known)
        assert ("predicted" in found.source or "estimated" in found.source) != found.measured
    kinds = [(found.backend, found.measured) for found in entry.times]
    assert len(set(kinds)) == len(kinds)


def file_of(found: Times) -> Path:
    """Find the file of a committed run that a measured time is from."""
    return ROOT / found.source.partition(",")[0]


@pytest.mark.parametrize("entry", TABLE, ids=ids)
def test_measured_times_are_those_of_a_committed_run(entry):
    shape = (times.SAMPLES, *entry.shape, times.DTYPES[entry.precision], entry.precision)
    for found in (one for one in entry.times if one.measured):
        medians = {
            one.direction: 1e3 * one.milliseconds
            for one in rows.read(file_of(found)).rows
            if one.provider == f"gcp_kernels[{found.backend}]"
            and (one.batch, one.channels, one.positions, one.dtype, one.precision) == shape
            and one.method == "CUDA graph"
        }
        assert found.forward == pytest.approx(medians["inference"], abs=0.06)
        assert found.backward == pytest.approx(medians["backward"], abs=0.06)


def test_predictions_are_as_uncertain_as_measured_times_show():
    """By no more, and hardly by less: a margin that none of them needs would keep a faster backend from its place."""
    factors = {}
    for entry, backend, backward in itertools.product(TABLE, ON_A_GPU, (False, True)):
        known = {found.measured: found.of(backward) for found in entry.times if found.backend == backend}
        if len(known) == 2:
            factors[backend, entry.precision, entry.shape, backward] = known[True] / known[False]
    assert 0.9 * UNCERTAINTY < max(max(factor, 1 / factor) for factor in factors.values()) <= UNCERTAINTY
    assert len(factors) == 42


def edges(numbers):
    """Give both ends of a range, and what is just outside of it."""
    return {numbers.start - 1, numbers.start, numbers.stop - 1, numbers.stop}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("operation", sorted(times.OPERATIONS))
def test_every_shape_is_in_one_row(operation, precision):
    """Rows are boxes, so a gap or an overlap would show at one of their corners."""
    channels = set().union(*(edges(entry.channels) for entry in TABLE))
    positions = set().union(*(edges(entry.positions) for entry in TABLE))
    for c, m in itertools.product(channels, positions):
        found = [entry for entry in TABLE if entry.covers(operation, c, m, precision)]
        assert len(found) == (1 if c in EVERYWHERE and m in EVERYWHERE else 0), (c, m, found)


def test_rows_are_of_operations_that_have_channels_and_positions():
    assert {"isqrt_pool"} <= times.OPERATIONS <= set(backends.ROOMS)
    assert all(operation.endswith("_pool") for operation in times.OPERATIONS)


# --- what select makes of it ---


@pytest.fixture
def pretend(monkeypatch):
    """Have tensors on the CPU taken for those on a GPU, by all backends but those named, with a table of times."""

    def choose(table, *, refused=()):
        monkeypatch.setattr(backends, "auto_order", lambda device_type: backends.AUTO_ORDER)
        monkeypatch.setattr(times, "TABLE", table)
        for name, module in backends.BACKENDS.items():
            reason = f"{name} is refused" if name in refused else None
            monkeypatch.setattr(module, "why_not", lambda *_, reason=reason: reason)
        order.cache_clear()

    order = times.order
    yield choose
    order.cache_clear()


def features(c, m, dtype=torch.float16):
    return torch.zeros((), dtype=dtype).expand(2, c, m)


@pytest.mark.parametrize("entry", TABLE, ids=ids)
def test_select_follows_the_figures_of_the_row(pretend, entry):
    """One row gets other figures, by which each backend in turn is the fastest: the choice changes in it alone."""
    c, m = entry.shape
    dtype = {"fast": torch.float16, "high": torch.float32}[entry.precision]
    before = {}
    pretend(TABLE)
    for other in TABLE:
        for backward in (False, True):
            chosen = backends.select(
                other.operation, features(*other.shape), "auto", other.precision, backward=backward
            )
            assert chosen == other.order(ON_A_GPU, backward)[0]
            before[other, backward] = chosen
    for fastest in ON_A_GPU:
        figures = tuple(predicted(name, *((1, 1) if name == fastest else (9, 9))) for name in ON_A_GPU)
        pretend(tuple(replace(one, times=figures) if one is entry else one for one in TABLE))
        assert backends.select(entry.operation, features(c, m, dtype), "auto") == fastest
        for other in TABLE:
            expected = fastest if other is entry else before[other, False]
            assert backends.select(other.operation, features(*other.shape), "auto", other.precision) == expected


def test_the_next_in_order_serves_what_the_first_refuses(pretend):
    table = (row(predicted("cuda", 90, 90), predicted("triton", 9, 9)),)
    x = features(256, 196)
    for refused, expected in (((), "triton"), (("triton",), "cuda"), (("triton", "cuda"), "torch")):
        pretend(table, refused=refused)
        assert backends.select("isqrt_pool", x, "auto", "fast") == expected
    pretend(table, refused=ON_A_GPU)
    with pytest.raises(RuntimeError, match=r"triton is refused.*cuda is refused.*torch is refused"):
        backends.select("isqrt_pool", x, "auto", "fast")


def test_a_named_backend_and_other_operations_do_not_look_at_times(pretend):
    pretend((row(predicted("cuda", 90, 90), predicted("triton", 9, 9)),))
    assert backends.select("isqrt_pool", features(256, 196), "cuda", "fast") == "cuda"
    for operation in set(backends.ROOMS) - times.OPERATIONS:
        assert backends.select(operation, features(256, 256), "auto", "fast") == "cuda"
    assert backends.select("triu_unvec", torch.zeros(2, 6), "auto") == "cuda"


def test_a_blackwell_gpu_gets_cuda_whatever_the_times(monkeypatch, pretend):
    """Triton's own refusal of capability 10.x, on a fake tensor that is on such a GPU."""
    triton = pytest.importorskip("triton", reason="the backend asks for it first")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    real = backends.triton.why_not
    pretend((row(predicted("cuda", 90, 90), predicted("triton", 9, 9)),))
    monkeypatch.setattr(backends.triton, "why_not", real)
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(2, 256, 196, device="cuda")
    for capability, expected in (((9, 0), "triton"), ((10, 0), "cuda"), ((11, 0), "cuda"), ((12, 0), "triton")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        backends.triton._why_not_device.cache_clear()
        monkeypatch.setattr(backends.triton, "_interpreted", lambda: False)
        assert backends.select("isqrt_pool", x, "auto", "fast") == expected
    backends.triton._why_not_device.cache_clear()


def test_a_choice_is_looked_up_once_for_a_shape(pretend):
    pretend(TABLE)
    shapes = [(3, 49), (64, 49), (64, 50), (300, 50)]
    for _ in range(3):
        for shape in shapes:
            backends.select("isqrt_pool", features(*shape), "auto", "fast")
    assert (times.order.cache_info().misses, times.order.cache_info().hits) == (4, 8)


def test_a_compiled_graph_of_any_size_asks_for_real_sizes(pretend, monkeypatch):
    """The choice is made when an operator runs: it sees integers, and puts no guard on a size that is left open."""
    pretend(TABLE, refused=("cuda", "triton"))
    asked = []
    real = times.order

    def order(operation, c, m, *rest):
        asked.append((type(c), type(m)))
        return real(operation, c, m, *rest)

    monkeypatch.setattr(times, "order", order)
    torch._dynamo.reset()
    graphs = []

    def uncompiled(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(fused_gcp, fullgraph=True, dynamic=True, backend=uncompiled)
    for c, m in ((20, 70), (40, 70), (150, 30), (300, 100)):
        x = torch.randn(2, c, m)
        torch.testing.assert_close(compiled(x), fused_gcp(x))
    assert len(graphs) == 1
    assert asked == [(int, int)] * 8
    torch._dynamo.reset()


def test_each_pass_has_the_backend_that_is_fastest_in_it(pretend, monkeypatch):
    """Where the fastest for these features is another than for any other shape, and another in each pass."""
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    own = row(measured("cuda", 9, 9), measured("torch", 1, 9))
    own = replace(own, channels=range(6, 7), positions=range(35, 36), precision="high")
    pretend((own, replace(row(measured("cuda", 1, 1)), precision="high")))
    chosen = []

    def select(operation, *rest, backward):
        chosen.append((operation, backward, backends.select(operation, *rest, backward=backward)))
        return "torch"

    monkeypatch.setattr(operators, "select", select)
    fused_gcp(x).sum().backward()
    assert chosen == [("isqrt_pool", False, "torch"), ("isqrt_pool", True, "cuda")]


def test_info_prints_every_row(capsys):
    assert main(["info"]) == 0
    report = capsys.readouterr().out
    for entry in TABLE:
        c, m = entry.shape
        found = re.search(
            rf"^{re.escape(f'{entry.operation}, {entry}: ')}(.*)\n    \({times.SAMPLES}, {c}, {m}\): (.*)\n    (.*)$",
            report,
            re.MULTILINE,
        )
        assert found is not None, entry
        orders = [tuple(order.split(", ")) for order in found[1].split(" / ")]
        assert (orders[0], orders[-1]) == (entry.order(ON_A_GPU, False), entry.order(ON_A_GPU, True))
        known = [entry.times_of(name, backward) for name in ON_A_GPU for backward in (False, True)]
        assert found[2] == "; ".join(dict.fromkeys(str(one) for one in known if one is not None))
        assert found[3] == entry.reason
