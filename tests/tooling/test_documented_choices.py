"""What docs say of the choices of the package is what it chooses: where matrices are, and which backend goes first."""

import re

import pytest

from benchmarks.cases import Case
from benchmarks.codegen.cost_model import launch as predict_launch
from gcp_kernels.ops import times
from tests.support.documents import flowing, table

# By what a row of the table names: the architectures that have that much shared memory.
ARCHITECTURES = {"H100, H200, B200": (90, 100), "A100": (80,), "GeForce 30, 40 and 50": (86, 89, 120)}

compiled = pytest.mark.skipif(predict_launch.why_not() is not None, reason=str(predict_launch.why_not()))


def form_of(direction, precision, channels, arch, side=32):
    case = Case(1, channels, side, side, dtype="float32", precision=precision)
    (launch,) = (one for one in predict_launch.launches(case, arch) if direction in one.kernel)
    return launch.variant.split()[0]


@compiled
def test_up_to_how_many_channels_all_matrices_are_in_shared_memory():
    shown = table("docs/backends.md", "Computed from kernel sizes")
    assert {row["Computed from kernel sizes"] for row in shown} == set(ARCHITECTURES)
    for row in shown:
        gpus, *cells = row.items()
        for arch in ARCHITECTURES[gpus[1]]:
            for heading, cell in cells:
                direction, precision = re.fullmatch(r'(\w+), "(\w+)"', heading).groups()
                assert form_of(direction, precision, int(cell), arch) != "streamed", (arch, heading)
                if int(cell) < 256:
                    assert form_of(direction, precision, int(cell) + 16, arch) == "streamed", (arch, heading)


@compiled
def test_how_many_channels_fit_at_all():
    said = 'So 256 channels run on each of these GPUs, except on a GeForce in "high"'
    assert said in flowing("docs/backends.md")
    assert "there the limit is 192, of positions too" in flowing("docs/backends.md")
    for architectures in ARCHITECTURES.values():
        for arch in architectures:
            assert form_of("backward", "fast", 256, arch)
            limit = 192 if arch in ARCHITECTURES["GeForce 30, 40 and 50"] else 256
            assert form_of("backward", "high", limit, arch)
            with pytest.raises(ValueError, match="does not fit"):
                form_of("backward", "high", limit + 1, arch)


def triton_first(c, m, precision, backward):
    return times.order("isqrt_pool", c, m, precision, ("cuda", "triton", "torch"), backward)[0] == "triton"


def test_where_auto_takes_triton_first():
    assert (
        '"auto" takes Triton forward up to 64 channels, in "fast" up to 128 with more than 64 positions, and in "high" '
        "for more than 256 channels with up to 64 positions; backward up to 32 channels; else CUDA."
    ) in flowing("docs/speed.md")
    for c in (1, 16, 32, 33, 64, 65, 96, 128, 129, 192, 256, 257, 512, 2048, 8192):
        for m in (1, 49, 64, 65, 196, 256, 784):
            fast = c <= 64 or (c <= 128 and m > 64)
            high = c <= 64 or (c > 256 and m <= 64)
            assert triton_first(c, m, "fast", False) == fast, (c, m)
            assert triton_first(c, m, "high", False) == high, (c, m)
            for precision in ("fast", "high"):
                assert triton_first(c, m, precision, True) == (c <= 32), (c, m, precision)


def test_how_many_classes_have_triton_first():
    first = [
        sum(entry.order(("cuda", "triton", "torch"), backward)[0] == "triton" for entry in times.TABLE)
        for backward in (False, True)
    ]
    words = {2: "two", 6: "six"}
    assert (
        f"Triton goes first forward in {words[first[0]]} of {len(times.TABLE)} classes, backward in {words[first[1]]}."
    ) in flowing("CHANGELOG.md")
