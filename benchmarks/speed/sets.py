"""Named sets of measurements: which cases, with which providers, and how much time each may take.

The shapes are those of published networks, batch sizes by device, and sweeps of one dimension at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isqrt

from gcp_kernels.ops import times

from ..cases import Case
from ..peers.providers import PROVIDERS

SETS = ("small", "standard", "full")

OURS = tuple(provider.name for provider in PROVIDERS if provider.name.startswith("gcp_kernels"))
EAGER = ("published", "pytorchcv", "autograd")
# Those that can be compared in a moment, those that compile code first, and those that compute the exact root.
QUICK = (*OURS, *EAGER, "average")
COMPILED = (*QUICK, "compile")
COMPILED_IN_HALF = (*COMPILED, "compile-half")
EXACT = (*OURS, "pade-lyapunov", "eigh")
EVERYONE = tuple(provider.name for provider in PROVIDERS)

BATCHES = (1, 4, 16, 64, 256, 1024)
CHANNELS = (32, 64, 128, 256, 512, 1024)
SQUARES = (1, 4, 7, 14, 28, 56)  # M from 1 to 3136
ITERATIONS = (1, 2, 3, 5, 7, 10)

# Batches on a GPU. Twenty-five thousand positions are a super-resolution network's.
NETWORKS = {
    "ResNet": Case(256, 256, 14, 14),
    "ResNet, 160 channels": Case(256, 160, 14, 14),
    "ResNet, 128 channels": Case(256, 128, 14, 14),
    "MobileNetV2": Case(256, 256, 7, 7),
    "MobileNetV2, 128 channels": Case(256, 128, 7, 7),
    "without reduction": Case(64, 2048, 7, 7),
    "ViT-S": Case(256, 384, 14, 14),
    "ViT-B": Case(128, 768, 14, 14),
    "fine-grained": Case(10, 256, 28, 28),
    "So-ViT": Case(256, 64, 14, 14),
    "So-ViT, 48 channels": Case(256, 48, 14, 14),
    "video": Case(16, 128, 28, 56),
    "video, longer": Case(16, 128, 56, 56),
    "super-resolution": Case(1, 64, 100, 250),
}
# Batches are smaller by this on a CPU, so that a case takes some ten milliseconds there too.
CPU_SHARE = 32
# The training shapes of a CPU, as in docs/speed.md: more positions than channels, and fewer, down to the last stage
# of networks that keep their stride, with and without a reduction.
CPU_HEADLINES = (
    Case(8, 256, 14, 14),
    Case(16, 128, 14, 14),
    Case(16, 64, 14, 14),
    Case(32, 64, 7, 7),
    Case(16, 128, 7, 7),
    Case(32, 256, 7, 7),
    Case(8, 512, 7, 7),
)
# Those of them whose two passes are timed by themselves too.
CPU_IN_PARTS = (Case(8, 256, 14, 14), Case(16, 128, 14, 14), Case(32, 256, 7, 7))


@dataclass(frozen=True)
class Item:
    """A case, the sweep or purpose that it belongs to, and the providers by name."""

    group: str
    case: Case
    providers: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a run does: items to time, cases whose peak is taken in fresh processes (on a CPU), and how often.

    ``turn_seconds`` and ``provider_seconds`` replace those of :mod:`benchmarks.timing` where they are given.
    """

    items: tuple[Item, ...]
    peaks: tuple[Case, ...]
    rounds: int
    processes: int
    turn_seconds: float | None = None
    provider_seconds: float | None = None
    peak_providers: tuple[str, ...] = COMPILED


def named_set(name: str, device_type: str) -> Plan:
    """Make the plan of a set on "cpu" or "cuda".

    "small" says whether everything works, in a CPU minute, and nothing about speed. "standard" is for the machine at
    hand: some three minutes on a recent GPU, some fifteen on two CPU cores. "full" takes as long as it takes.

    Raises:
        ValueError: there is no set of that name.
    """
    if name not in SETS:
        raise ValueError(f"the set must be one of {', '.join(SETS)}, got {name!r}")
    if name == "small":
        return small()
    items = (*headlines(device_type), *sweeps(device_type, name), *latencies(name), *exact(device_type))
    if device_type == "cuda":
        items = (*items, *compared_by_auto())
    if name == "full":
        known = {item.case for item in items if item.group == "network"}
        items = (*items, *(item for item in networks(device_type) if item.case not in known), *arithmetics(device_type))
    peaks = tuple(Case(batch, 256, 14, 14) for batch in (4, 16, 64)) if device_type == "cpu" else ()
    return Plan(items, peaks, rounds=15, processes=3 if name == "full" else 2)


def small() -> Plan:
    """Plan every group, direction and dtype with shapes that take no time."""
    base = Case(2, 16, 5, 5)
    items = [
        Item("network", replace(base, direction=one), QUICK) for one in ("inference", "forward", "backward", "both")
    ]
    items += [Item("batch", replace(base, batch=batch), QUICK) for batch in (1, 4)]
    items += [Item("channels", replace(base, channels=channels), QUICK) for channels in (8, 32)]
    items += [Item("positions", replace(base, height=side, width=side), QUICK) for side in (1, 7)]
    items += [Item("iterations", replace(base, n_iter=count), QUICK) for count in (1, 3)]
    items += [
        Item("arithmetic", replace(base, dtype=dtype, precision=precision), QUICK) for dtype, precision in ARITHMETIC
    ]
    items += [Item("exact", replace(base, height=9, width=9), EXACT)]
    return Plan(
        tuple(items),
        (base,),
        rounds=3,
        processes=1,
        turn_seconds=0.002,
        provider_seconds=0.05,
        peak_providers=(*OURS, "published"),
    )


ARITHMETIC = (
    ("float32", "high"), ("float32", "fast"), ("float16", "fast"), ("bfloat16", "fast"), ("bfloat16", "high"),
    ("float64", "high"),
)  # fmt: skip


def headlines(device_type: str) -> Iterator[Item]:
    """Plan a training step of every provider, and its parts; on a GPU as under autocast, the step in float32 too.

    The first shape of a GPU has every arithmetic that a peer may be compiled in: float32, TF32, and both of half
    precision. It comes first, for a run whose time is short.
    """
    if device_type == "cpu":
        for case in CPU_HEADLINES:
            yield Item("network", case, COMPILED)
            if case in CPU_IN_PARTS:
                yield from parts(case)
        return
    first, *others = (*(Case(256, channels, 14, 14) for channels in (256, 128, 64)), Case(256, 256, 7, 7))
    yield Item("network", first, COMPILED)
    yield Item("network", replace(first, precision="fast"), COMPILED)
    yield Item("network", replace(first, dtype="float16", precision="fast"), COMPILED_IN_HALF)
    for case in (first, *others):
        under_autocast = replace(case, dtype="bfloat16", precision="fast")
        yield Item("network", under_autocast, COMPILED_IN_HALF)
        yield from parts(under_autocast)
    yield from (Item("network", case, COMPILED) for case in others)


def parts(case: Case) -> Iterator[Item]:
    """Plan the two passes of a training step, each by itself."""
    return (Item("network", replace(case, direction=direction), QUICK) for direction in ("forward", "backward"))


def sweeps(device_type: str, name: str) -> Iterator[Item]:
    """Plan one dimension at a time, a training step each; N where five positions per channel keep float32 exact."""
    base = Case(8, 64, 14, 14) if device_type == "cpu" else Case(256, 256, 14, 14, dtype="bfloat16", precision="fast")
    most = 64 if device_type == "cpu" else 1024
    for batch in (batch for batch in BATCHES if batch <= most or name == "full"):
        yield Item("batch", replace(base, batch=batch), QUICK)
    for channels in (channels for channels in CHANNELS if channels <= 512 or name == "full"):
        yield Item("channels", replace(base, batch=min(base.batch, 64), channels=channels), QUICK)
    for side in SQUARES:
        yield Item("positions", replace(base, batch=min(base.batch, 16), height=side, width=side), QUICK)
    for n_iter in ITERATIONS:
        yield Item("iterations", replace(base, batch=min(base.batch, 64), channels=64, n_iter=n_iter), QUICK)


def latencies(name: str) -> Iterator[Item]:
    """Plan one image, without a graph."""
    shapes = ("ResNet", "So-ViT", "fine-grained") if name == "standard" else NETWORKS
    for shape in shapes:
        yield Item(
            "latency", replace(NETWORKS[shape], batch=1, direction="inference"), COMPILED if name == "full" else QUICK
        )


def exact(device_type: str) -> Iterator[Item]:
    """Plan what the exact root costs, with more positions than channels, with fewer, and with far fewer."""
    batch = 4 if device_type == "cpu" else 32
    yield Item("exact", Case(batch, 64, 28, 28), EXACT)
    yield Item("exact", Case(batch, 256, 14, 14), EXACT)
    yield Item("exact", Case(batch, 256, 7, 7), EXACT)


def compared_by_auto() -> Iterator[Item]:
    """Plan both passes of each row of the table by which "auto" orders backends, with the backends that it orders."""
    for row in times.TABLE:
        c, m = row.shape
        case = Case(
            times.SAMPLES, c, isqrt(m), m // isqrt(m), dtype=times.DTYPES[row.precision], precision=row.precision
        )
        for direction in ("inference", "backward"):
            yield Item("auto", replace(case, direction=direction), ("gcp_kernels[cuda]", "gcp_kernels[triton]"))


def networks(device_type: str) -> Iterator[Item]:
    for case in NETWORKS.values():
        batch = max(1, case.batch // CPU_SHARE) if device_type == "cpu" else case.batch
        yield Item("network", replace(case, batch=batch), COMPILED)


def arithmetics(device_type: str) -> Iterator[Item]:
    """Plan every dtype with every precision that it has."""
    kinds = (*ARITHMETIC, ("float16", "high"))
    for channels, (dtype, precision) in product((64, 256), kinds):
        batch = 8 if device_type == "cpu" else 256
        yield Item("arithmetic", Case(batch, channels, 14, 14, dtype=dtype, precision=precision), QUICK)


def selected(
    items: Sequence[Item], text: str | None, groups: Sequence[str] | None, providers: Sequence[str] | None
) -> tuple[Item, ...]:
    """Select the items whose label has the text, from these groups, with the providers that have one of the texts."""
    kept = []
    for item in items:
        names = tuple(name for name in item.providers if not providers or any(part in name for part in providers))
        if (
            names
            and (not groups or item.group in groups)
            and (text is None or text in f"{item.group} {item.case.label}")
        ):
            kept.append(replace(item, providers=names))
    return tuple(kept)
