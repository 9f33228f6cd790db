"""Times, memory and machine code that README and docs show are those of committed runs and tables."""

import csv
import re
from functools import cache
from itertools import product

import pytest

from benchmarks.codegen.cost_model.floor import useful
from gcp_kernels.ops import times
from tests.support.documents import (
    CPU,
    FIRST,
    PASSES,
    RESULTS,
    STEP,
    assert_shown,
    flowing,
    log_of,
    only,
    table,
    text_of,
)

MIB = 2**20
# By the heading of their column.
PROVIDERS = {
    "CUDA, ms": "gcp_kernels[cuda]",
    "Triton": "gcp_kernels[triton]",
    "torch backend": "gcp_kernels[torch]",
    "plain autograd": "autograd",
    "published operations": "published",
    "pytorchcv `iSQRTCOVPool`": "pytorchcv",
    "`torch.compile` of that": "compile",
}
FACTOR = r"(\d+\.\d+) \((\d+\.\d+) to (\d+\.\d+)\)"


@cache
def rows_of(run):
    with (RESULTS / run / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def row_of(run, shape, provider, *, dtype="float32", group="network", direction="both"):
    """Find the only row of a group of a run for "B, C, HxW"."""
    (row,) = (
        row
        for row in rows_of(run)
        if (row["group"], row["direction"], row["provider"]) == (group, direction, provider)
        and (row["case"], row["dtype"]) == (shape.replace(", ", "x"), dtype)
    )
    return row


def assert_factors(cell, row):
    for figure, value in zip(re.fullmatch(FACTOR, cell).groups(), ("ratio", "ratio_low", "ratio_high"), strict=True):
        assert_shown(figure, row[value])


def test_training_steps_of_the_readme():
    shown = table("README.md", "on")
    assert len(shown) == 6
    for row in shown:
        shape, _, dtype = row["(B, C, H x W), dtype"].rpartition(", ")
        run, ours = {"H100, CUDA": (STEP, "cuda"), "CPU, one thread": (CPU, "torch")}[row["on"]]
        assert row["source"] == f"[run](benchmarks/results/{run}/table.txt)"
        assert_shown(row["ours"], row_of(run, shape, f"gcp_kernels[{ours}]", dtype=dtype)["milliseconds"])
        for heading in ("plain autograd", "published operations"):
            assert_factors(row[heading], row_of(run, shape, PROVIDERS[heading], dtype=dtype))


def test_peak_memory_of_the_readme():
    memory, *_ = (row[""] for row in table("README.md", "and"))
    first = table("README.md", "on")[0]["(B, C, H x W), dtype"].removesuffix(", float32")
    peaks = [row_of(STEP, first, name)["peak_bytes"] for name in ("gcp_kernels[cuda]", "autograd", "published")]
    for figure, peak in zip(re.findall(r"(\d+) MiB", memory), peaks, strict=True):
        assert_shown(figure, int(peak) / MIB)


def test_training_steps_on_a_cpu():
    *shown, memory = table("docs/speed.md", "(B, C, H x W)")
    assert len(shown) == 7
    for row in shown:
        for heading, cell in list(row.items())[1:]:
            assert_factors(cell, row_of(CPU, row["(B, C, H x W)"], PROVIDERS[heading]))
    what, *cells = memory.values()
    shape, ours = re.fullmatch(r"peak memory at (.*) \(ours (\d+) MiB\)", what).groups()
    peak = {name: int(row_of(CPU, shape, name, group="memory")["peak_bytes"]) for name in list(PROVIDERS.values())[2:]}
    assert_shown(ours, peak["gcp_kernels[torch]"] / MIB)
    for heading, cell in zip(list(memory)[1:], cells, strict=True):
        assert_shown(cell, peak[PROVIDERS[heading]] / peak["gcp_kernels[torch]"])


def test_training_steps_on_a_gpu():
    shown = table("docs/speed.md", "(B, C, H x W), dtype")
    assert len(shown) == 8
    for row in shown:
        place, ours, *others, memory = row.items()
        shape, _, dtype = place[1].rpartition(", ")
        columns = [ours, *others]
        measured = [row_of(STEP, shape, PROVIDERS[heading], dtype=dtype) for heading, _ in columns]
        assert_shown(ours[1], measured[0]["milliseconds"])
        for (_, cell), one in zip(others, measured[1:], strict=True):
            assert_factors(cell, one)
        for figure, one in zip(memory[1].split(" / "), measured, strict=True):
            assert_shown(figure, int(one["peak_bytes"]) / MIB)


def test_times_of_passes_are_those_by_which_auto_orders_backends():
    found = re.findall(r"^\| (\d+), (\d+) \| (.*) \| (.*) \| (.*) \| (.*) \|$", text_of("docs/speed.md"), re.MULTILINE)
    assert {(int(c), int(m)) for c, m, *_ in found} == {entry.shape for entry in times.TABLE}

    def shown(entry, backend, measured):
        known = (one for one in entry.times if (one.backend, one.measured) == (backend, measured))
        times_of = ((one.forward, one.backward) for one in known)
        return next(" / ".join("not measured" if time is None else f"{time:.0f}" for time in both) for both in times_of)

    for c, m, *cells in found:
        entries = {entry.precision: entry for entry in times.TABLE if entry.shape == (int(c), int(m))}
        for (precision, backend), cell in zip(product(("fast", "high"), ("cuda", "triton")), cells, strict=True):
            expected = shown(entries[precision], backend, True)
            if backend == "cuda":
                expected += f" ({shown(entries[precision], backend, False)})"
            assert cell == expected


def test_times_of_passes_are_those_of_the_run():
    measured = [
        (entry, one, direction)
        for entry in times.TABLE
        for one in entry.times
        for direction in ("forward", "backward")
        if one.measured
    ]
    assert len(measured) >= 56
    side = {196: "14x14", 49: "7x7"}
    for entry, one, direction in measured:
        (c, m), value = entry.shape, getattr(one, direction)
        row = row_of(
            PASSES,
            f"256, {c}, {side[m]}",
            f"gcp_kernels[{one.backend}]",
            dtype=times.DTYPES[entry.precision],
            group="auto",
            direction={"forward": "inference", "backward": "backward"}[direction],
        )
        assert value == pytest.approx(1e3 * float(row["milliseconds"]), abs=0.06), (entry.shape, one)


def of(run, key, provider, **wanted):
    """List a number of all rows of a provider that have what is wanted."""
    return [
        float(row[key])
        for row in rows_of(run)
        if row["provider"] == provider and row[key] and all(row[name] == value for name, value in wanted.items())
    ]


def microseconds(run, shape, backend, direction, dtype):
    row = row_of(run, shape, f"gcp_kernels[{backend}]", dtype=dtype, group="auto", direction=direction)
    return 1e3 * float(row["milliseconds"])


def measured_over_predicted():
    return [
        measured / predicted
        for entry in times.TABLE
        for one, other in product(entry.times, entry.times)
        if one.backend == other.backend == "cuda" and one.measured and not other.measured
        for measured, predicted in ((one.forward, other.forward), (one.backward, other.backward))
    ]


def step_64(backends):
    return sum(
        min(microseconds(PASSES, "256, 64, 14x14", backend, direction, "float32") for backend in backends)
        for direction in ("inference", "backward")
    )


def rounds(run):
    return [int(row["rounds"]) for row in rows_of(run) if row["rounds"]]


def ratio(run, shape, precision):
    """Give forward's measured over its predicted time, from the first table of a run's README with such a column."""
    return only(rf"^\| {shape}, {precision} \| \S+ \| \S+ \| (\S+) \|", log_of(run, "README.md"))


def memory_of_autograd():
    ours, others = (of(STEP, "peak_bytes", name) for name in ("gcp_kernels[cuda]", "autograd"))
    return [other / our for our, other in zip(ours, others, strict=True)]


def floor(function):
    return function(of(STEP, "ratio", "average"))


def published(key, function):
    return function(of(STEP, key, "published"))


# A page, a sentence in it, and what its figures are.
SENTENCES = {
    "inference of a sample": (
        "docs/speed.md",
        r"no faster than plain autograd \(([\d.]+) at \(1, 64, 14x14\), ([\d.]+) at \(1, 256, 28x28\)\)",
        lambda: [
            row_of(CPU, shape, "autograd", group="latency", direction="inference")["ratio"]
            for shape in ("1, 64, 14x14", "1, 256, 28x28")
        ],
    ),
    "the exact root": (
        "docs/speed.md",
        r"at \(4, 256, 14x14\) the exact root by eigen-decomposition takes ([\d.]+) of our time on that CPU "
        r"\(at 7x7 positions ([\d.]+) times as long\)",
        lambda: [row_of(CPU, f"4, 256, {size}", "eigh", group="exact")["ratio"] for size in ("14x14", "7x7")],
    ),
    "rounds of published operations": (
        "docs/speed.md",
        r"of ours from Python, of (\d) to (\d) rounds",
        lambda: [published("rounds", min), published("rounds", max)],
    ),
    "times of published operations": (
        "docs/speed.md",
        r"which took (\d+) to (\d+) ms whatever the shape",
        lambda: [published("milliseconds", min), published("milliseconds", max)],
    ),
    "rounds on a CPU": ("docs/speed.md", r"up to (\d+) interleaved rounds", lambda: [max(rounds(CPU))]),
    "rounds on a GPU": (
        "docs/speed.md",
        r"median and quartiles of (\d+) rounds",
        lambda: {round for round in rounds(STEP) if round not in of(STEP, "rounds", "published")},
    ),
    "the floor": (
        "docs/speed.md",
        r"average pooling, the floor, takes ([\d.]+) to ([\d.]+) of the time of CUDA",
        lambda: [floor(min), floor(max)],
    ),
    "from Python": (
        "docs/speed.md",
        r"from Python no step of ours takes less than ([\d.]+) ms",
        lambda: [min(of(STEP, "eager_milliseconds", "gcp_kernels[cuda]"))],
    ),
    "a step of auto": (
        "docs/speed.md",
        r"the passes below add up to (\d+) us, those of CUDA alone to (\d+)",
        lambda: [step_64(("cuda", "triton")), step_64(("cuda",))],
    ),
    "the first row before": (
        "docs/speed.md",
        r"in the first run the two took (\d+) and (\d+) us there",
        lambda: [microseconds(FIRST, "256, 32, 14x14", name, "inference", "float16") for name in ("cuda", "triton")],
    ),
    "narrow stores": (
        "docs/speed.md",
        r"forward took (\d+) us at \(2048, 49\) and (\d+) at \(256, 49\) in \"fast\"",
        lambda: [microseconds(FIRST, f"256, {c}, 7x7", "cuda", "inference", "float16") for c in (2048, 256)],
    ),
    "predictions": (
        "docs/speed.md",
        r"The passes took ([\d.]+) to ([\d.]+) times as long",
        lambda: [min(measured_over_predicted()), max(measured_over_predicted())],
    ),
    "predictions in the suite": (
        "docs/benchmarks.md",
        r"the kernels take ([\d.]+) to ([\d.]+) times as long as predicted",
        lambda: [min(measured_over_predicted()), max(measured_over_predicted())],
    ),
    "useful products": (
        "docs/speed.md",
        r"at 256 channels ([\d,]+) at 14x14 positions \(([\d,]+) on the side of the channels\) and ([\d,]+) at 7x7",
        lambda: [
            useful(f"isqrt_pool_{side}forward_kernel", 256, m, 5, "fast").products
            for side, m in (("positions_", 196), ("", 196), ("positions_", 49))
        ],
    ),
    "a Pade approximant": (
        "docs/benchmarks.md",
        r"The Pade approximant is ([\d.]+) % from the exact root at 64 channels and 28x28 positions and (\d+) % at 256",
        lambda: [
            100 * float(row_of(CPU, shape, "pade-lyapunov", group="exact")["root_distance"])
            for shape in ("4, 64, 28x28", "4, 256, 14x14")
        ],
    ),
    "narrow stores, predicted": (
        "docs/benchmarks.md",
        r"took ([\d.]+) and ([\d.]+) times as long where the model did not know of stores in parts",
        lambda: [ratio(FIRST, "2048, 49", precision) for precision in ("high", "fast")],
    ),
    "predictions, in the changelog": (
        "CHANGELOG.md",
        r"On an H100 kernels take ([\d.]+) to ([\d.]+) times as long",
        lambda: [min(measured_over_predicted()), max(measured_over_predicted())],
    ),
    "memory, in the changelog": (
        "CHANGELOG.md",
        r"of the CUDA backend, in (\d+) to (\d+) times its memory",
        lambda: [function(memory_of_autograd()) for function in (min, max)],
    ),
    "compiled, in the changelog": (
        "CHANGELOG.md",
        r"`torch.compile` of the reference takes (\d+) to (\d+) times as long for a training step at 7x7 positions and "
        r"256 to 512 channels",
        lambda: [row_of(CPU, shape, "compile")["ratio"] for shape in ("32, 256, 7x7", "8, 512, 7x7")],
    ),
    "a step, in the changelog": (
        "CHANGELOG.md",
        r"plain autograd takes ([\d.]+) to (\d+) times that of the CUDA backend, .*? published operations, timed from "
        r"Python, take ([\d.]+) to (\d+) times",
        lambda: [
            *(function(of(STEP, "ratio", "autograd")) for function in (min, max)),
            *(published("ratio", function) for function in (min, max)),
        ],
    ),
    "whole sectors, in the changelog": (
        "CHANGELOG.md",
        r"forward takes (\d+) us instead of (\d+) at 256 channels and 7x7 positions in \"fast\", and (\d+) instead of "
        r"(\d+) at 2048 channels",
        lambda: [
            microseconds(run, f"256, {c}, 7x7", "cuda", "inference", "float16")
            for c, run in product((256, 2048), (PASSES, FIRST))
        ],
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_has_the_figures_of_the_runs(name):
    page, sentence, values = SENTENCES[name]
    (found,) = re.finditer(sentence, flowing(page))
    for figure, value in zip(found.groups(), values(), strict=True):
        assert_shown(figure.replace(",", ""), value)


def test_what_the_readme_says_in_words():
    said = flowing("README.md")
    assert "takes a 50th to a sixth of our time on the H100" in said
    assert 1 / floor(min) == pytest.approx(50, rel=0.06)
    assert 1 / floor(max) == pytest.approx(6, rel=0.1)
    assert "inference of a single sample is no faster than plain autograd on a CPU" in said
    assert min(of(CPU, "ratio", "autograd", direction="inference", batch="1")) < 1


# What the first column of the table of registers calls them.
FORMS = ("small", "middle", "resident", "streamed")


@cache
def kernels():
    """Read the committed table of machine code: by architecture, kernel and variant."""
    text = (RESULTS / "static_cuda_extension.txt").read_text(encoding="utf-8")
    head = only(r"^arch .*$", text)
    found = re.findall(r"^(sm_\d+) +((?:\d+ +)+)(\w+_kernel) (.*)$", text, re.MULTILINE)
    return {
        (arch, kernel, variant): dict(zip(head.split()[1:-1], map(int, numbers.split()), strict=True))
        for arch, numbers, kernel, variant in found
    }


def test_registers_and_instructions_are_those_of_the_committed_table():
    shown = table("docs/speed.md", 'kernel, sm_90, "fast"')
    assert len(shown) == 4
    for row in shown:
        side, direction = re.match(
            r"on (channels|positions), (forward|backward)", row['kernel, sm_90, "fast"']
        ).groups()
        kernel = f"isqrt_pool_{'positions_' if side == 'positions' else ''}{direction}_kernel"
        for heading, column in (("registers", "regs"), ("HMMA", "HMMA"), ("LDSM", "LDSM")):
            expected = [str(kernels()["sm_90", kernel, f"{form} fast"][column]) for form in FORMS]
            assert row[heading].split(" / ") == expected, (kernel, heading)


def test_spills_are_those_of_the_committed_table():
    said = flowing("docs/speed.md")
    assert (
        'no kernel spills a register on sm_80, sm_90, sm_100 or sm_120, but forward in "high" on sm_80 16 bytes' in said
    )
    assert "and beyond none more than 32" in said
    assert {arch for arch, *_ in kernels()} == {"sm_80", "sm_90", "sm_100", "sm_120"}
    stacks = {key: figures["stack"] for key, figures in kernels().items()}
    assert max(stacks.values()) == 32
    on_chip = {key: stack for key, stack in stacks.items() if stack and key[2].split()[0] in ("small", "middle")}
    assert on_chip == {("sm_80", "isqrt_pool_forward_kernel", "middle high"): 16}
