"""The kernels that ``python -m benchmarks static`` compiles: those that the backend's own launches ask Triton for.

The launches run on tensors of the meta device, and Triton's hook before a compilation notes what it was about to
compile, down to the integers that it specialises on. Nothing of a configuration or of a signature is written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from triton import knobs

from gcp_kernels.ops.covariance_pool.triton import launch as covariance
from gcp_kernels.ops.isqrt_pool.triton import launch as isqrt
from gcp_kernels.ops.shapes import empty_gradient, pooled_shape
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import OnChip, Persistent, Phases, Tiling

from .stub_driver import StubDriver, stubbed

MULTIPROCESSORS = 132
BATCH = 2 * MULTIPROCESSORS
# Channels of features of 14 x 14 positions, by the side on which they are iterated.
WIDTHS = {CHANNELS: 256, POSITIONS: 512}
SPLITS = 4
DTYPES = {"fast": torch.bfloat16, "high": torch.float32}


@dataclass(frozen=True)
class KernelCase:
    """One pass through the backend, in a configuration that is shipped; as default a map of 14 x 14, NCHW.

    ``source`` is "features", "scaled features" of a plain covariance, or "matrix", a covariance that is given;
    ``wide`` is a sample that spans more than 2^31 elements. ``variant`` says what is not the default.
    """

    choice: policy.Config | Tiling
    backward: bool
    precision: str
    dtype: torch.dtype
    c: int
    variant: str = ""
    source: str = "features"
    b: int = BATCH
    m: int = 196
    n_iter: int = 5
    triu: bool = True
    channels_last: bool = False
    wide: bool = False

    @property
    def form(self) -> str:
        names = {OnChip: "on chip", Persistent: "persistent", Phases: "phases", Tiling: "covariance"}
        return names[type(self.choice)]

    @property
    def on_positions(self) -> bool:
        """Whether it iterates on the side of the positions."""
        return not isinstance(self.choice, Tiling) and self.choice.side == POSITIONS


@dataclass(frozen=True)
class TritonKernel:
    """A kernel as Triton is asked for it; for ``specialization`` see :func:`specialization`."""

    arch: int
    form: str
    direction: str
    name: str
    precision: str
    configuration: str
    variant: str
    module: str
    specialization: str


def shipped(arch: int) -> Iterator[KernelCase]:
    """Every configuration of an architecture, both ways."""
    table = policy.choices(Architecture(arch, MULTIPROCESSORS))
    for precision, planes in policy.PLANES.items():
        dtype = DTYPES[precision]
        for backward, on_chip, tilings in (
            (False, table.on_chip_forward, table.forward),
            (True, table.on_chip_backward, table.backward),
        ):
            for choice in on_chip[planes]:
                yield KernelCase(choice, backward, precision, dtype, choice.block_c)
            positions = (table.positions_backward if backward else table.positions_forward)[planes]
            for choice in (*positions, replace(positions[-1], shared=True)):
                yield KernelCase(choice, backward, precision, dtype, WIDTHS[CHANNELS], m=choice.block_m)
            for side, c in WIDTHS.items():
                yield KernelCase(Persistent(tilings[planes], MULTIPROCESSORS, side), backward, precision, dtype, c)
        for backward in (False, True):
            phases = Phases(table.phases[planes], SPLITS, chunk=4 * table.phases[planes].block_m)
            of_features = KernelCase(phases, backward, precision, dtype, WIDTHS[CHANNELS])
            yield of_features
            yield replace(of_features, choice=replace(phases, side=POSITIONS), c=WIDTHS[POSITIONS])
            yield replace(of_features, source="matrix", m=1, triu=False)
        for backward in (False, True):
            plain = KernelCase(policy.COVARIANCE, backward, precision, dtype, WIDTHS[CHANNELS])
            yield plain
            yield replace(plain, source="scaled features")


def variants(case: KernelCase) -> Iterator[KernelCase]:
    """Give the case with one thing changed at a time."""
    yield replace(case, variant="full output", triu=False)
    yield replace(case, variant="channels last", channels_last=True)
    yield replace(case, variant="wide", wide=True)
    if case.on_positions:
        yield replace(case, variant="odd positions", m=case.m - 3)
    else:
        yield replace(case, variant="56 x 56", m=3136)
    yield replace(case, variant="odd channels", c=case.c - 3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        if dtype != case.dtype:
            yield replace(case, variant=str(dtype).removeprefix("torch."), dtype=dtype)
    if case.form != "on chip":
        for c in (64, 1024):
            yield replace(case, variant=f"C = {c}", c=c)
    if case.form != "covariance" and not case.on_positions:
        yield replace(case, variant="matrix", source="matrix", m=1, triu=False)
        yield replace(case, variant="one iteration", n_iter=1)
    if case.form == "persistent":
        yield replace(case, variant="one sample", b=1)


def kernels(arch: int, with_variants: bool = False) -> list[TritonKernel]:
    """Give the kernels of an architecture; of those that differ only in the integers they are specialised on, one.

    Of them that is kept which knows least of its arguments. With variants each is kept that Triton would compile.
    """
    found: dict[str, TritonKernel] = {}
    for case in shipped(arch):
        keep_most_general(found, launched(case, arch))
    if not with_variants:
        return list(found.values())
    every = {kernel.specialization: kernel for kernel in found.values()}
    for case in shipped(arch):
        for variant in variants(case):
            for kernel in launched(variant, arch):
                every.setdefault(kernel.specialization, kernel)
    return list(every.values())


def keep_most_general(found: dict[str, TritonKernel], candidates: list[TritonKernel]) -> None:
    """Add the candidates to ``found``, one for each kernel, dtypes and constants of the source."""
    for kernel in candidates:
        data = json.loads(kernel.specialization)
        pointers = [kind for kind in flat(data["signature"].values()) if kind.startswith("*")]
        key = json.dumps([kernel.name, kernel.module, pointers, kernel.configuration, data["options"]])
        if key not in found or specialised(kernel) < specialised(found[key]):
            found[key] = kernel if key not in found else replace(found[key], specialization=kernel.specialization)


def flat(kinds: Iterable[Any]) -> Iterator[str]:
    """List the kinds of arguments, and those of their members."""
    for kind in kinds:
        yield from [kind] if isinstance(kind, str) else flat(kind)


def specialised(kernel: TritonKernel) -> int:
    """How many arguments Triton knows something of."""
    data = json.loads(kernel.specialization)
    return len(data["constant_keys"]) + sum(bool(attributes) for attributes in data["attrs_vals"])


def launched(case: KernelCase, arch: int) -> list[TritonKernel]:
    """Give what Triton is asked to compile in a pass, in the order of the launches."""
    asked: list[TritonKernel] = []

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        asked.append(
            TritonKernel(
                arch=arch,
                form=case.form,
                direction="backward" if case.backward else "forward",
                name=fn.name,
                precision=case.precision,
                configuration=configuration(fn.jit_function, compile),
                variant=case.variant,
                module=fn.module,
                specialization=specialization(compile),
            )
        )
        return True  # and so not compiled, nor launched

    with stubbed(StubDriver(arch)), before_compilation(note):
        launch(case)
    return asked


@contextmanager
def before_compilation(hook: Any) -> Iterator[None]:
    """Triton asks ``hook`` before it compiles a kernel."""
    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = hook
    try:
        yield
    finally:
        knobs.runtime.jit_cache_hook = before


def specialization(compilation: dict[str, Any]) -> str:
    """Give Triton's specialization data, and what JSON has no place for: of arguments with members type and names."""
    data = json.loads(compilation["specialization_data"])
    data["members"] = {
        name: (type(kinds).__name__, *kinds._fields)
        for name, kinds in compilation["signature"].items()
        if isinstance(kinds, tuple)
    }
    return json.dumps(data)


def configuration(function: Any, compilation: dict[str, Any]) -> str:
    """Describe the constants of a kernel: what it is not given, flags by name where they are set; warps and stages."""
    constants, parts = compilation["constants"], []
    for index, name in enumerate(function.arg_names):
        if index in function.constexprs:
            value = constants[(index,)]
            parts += ([name] if value else []) if isinstance(value, bool) else [f"{name}={value}"]
            continue
        members = compilation["signature"][name]
        parts += [f"no {name}"] if constants.get((index,), name) is None else []
        for at, member in enumerate(members._fields if isinstance(members, tuple) else ()):
            parts += [f"no {name}.{member}"] if constants.get((index, at), member) is None else []
    return " ".join((*parts, f"warps={compilation['num_warps']}", f"stages={compilation['num_stages']}"))


@dataclass(frozen=True)
class Tensors:
    """What a pass reads and fills; ``pooled`` is the upstream gradient of a backward pass.

    ``source`` is (B, C, M) features or (B, C, C) matrices; ``scale`` and ``grad_scale`` are (B, C), or not there.
    """

    source: Tensor
    scale: Tensor | None
    centre: Tensor
    trace: Tensor
    pooled: Tensor
    grad_source: Tensor
    grad_scale: Tensor | None

    @classmethod
    def of(cls, case: KernelCase, device: torch.device | str) -> Tensors:
        """Uninitialised ones."""
        source = features(case, device)
        b, c = source.shape[:2]
        scale = source.new_empty(b, c) if case.source == "scaled features" else None
        pooled = source.new_empty(pooled_shape(b, c, case.triu))
        return cls(
            source=source,
            scale=scale,
            centre=source.new_empty(b, c, dtype=torch.float32),
            trace=source.new_empty(b, dtype=torch.float32),
            pooled=pooled,
            grad_source=torch.empty_like(pooled) if case.source == "matrix" else empty_gradient(source),
            grad_scale=None if scale is None else torch.empty_like(scale),
        )


def launch(case: KernelCase) -> None:
    """Launch the kernels of a pass on tensors without memory."""
    launch_on(case, Tensors.of(case, "meta"))


def launch_on(case: KernelCase, tensors: Tensors) -> None:
    """Launch the kernels of a pass."""
    source, pooled = tensors.source, tensors.pooled
    centre = None if case.source == "matrix" else tensors.centre
    if isinstance(case.choice, Tiling):
        if case.backward:
            covariance.launch_backward(
                pooled, source, tensors.scale, tensors.centre, tensors.grad_source, tensors.grad_scale,
                case.precision, case.choice,
            )  # fmt: skip
        else:
            covariance.launch_forward(source, tensors.scale, pooled, tensors.centre, case.precision, case.choice)
    elif case.backward:
        isqrt.launch_backward(
            pooled, source, centre, tensors.trace, tensors.grad_source, case.n_iter, case.precision, case.choice
        )
    else:
        isqrt.launch_forward(source, pooled, centre, tensors.trace, case.n_iter, case.precision, case.choice)


def features(case: KernelCase, device: torch.device | str) -> Tensor:
    """Features (B, C, M), or matrices (B, C, C), laid out as the case wants them."""
    b, c, m = case.b, case.c, case.c if case.source == "matrix" else case.m
    if case.wide:
        stride = 2**31 // (c - 1) + 1
        return torch.empty_strided((b, c, m), (c * stride, stride, 1), dtype=case.dtype, device=device)
    if case.channels_last:
        return torch.empty(b, m, c, dtype=case.dtype, device=device).transpose(1, 2)
    return torch.empty(b, c, m, dtype=case.dtype, device=device)
