"""Every kernel of the package once or more, on few samples and small shapes, with what each must give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import gcp_kernels
from gcp_kernels import reference
from gcp_kernels.ops import backends, sides
from gcp_kernels.ops.cuda_device.side import side_of
from gcp_kernels.precision import PLANES

from ..cases import DTYPES
from ..peers.truth import PROMISE, worst_sample_error

# Where a block has 99 to 227 KiB of shared memory, some of these are small, some middle, some resident and some
# streamed, each way and in each precision, if any C is: 80 is middle backward in "high" with 99.
CHANNELS = (16, 32, 48, 64, 80, 100, 128, 140, 176, 256)
# One for each form of the CUDA kernels, which read and write elements of every type.
FORM_CHANNELS = (48, 80, 140, 256)
COVARIANCE_CHANNELS = (60, 100, 140, 256)
# More than the CUDA kernels iterate on: so they iterate on the side of the channels, however many there are.
MANY_POSITIONS = 300
# (C, M) that they iterate on the side of the positions: in every form, of few channels and of more than fit beside the
# matrices.
ON_POSITIONS = ((30, 16), (96, 49), (256, 49), (100, 70), (520, 100), (200, 140), (300, 196), (300, 256))
# One for each form.
FORMS_ON_POSITIONS = ((96, 49), (100, 70), (200, 140), (300, 256))
# The first step, one in the middle, and the last two, which are one in the CUDA kernels.
N_ITER = 4
SAMPLES, POSITIONS = 3, 49
ARITHMETIC = {"fast": "bfloat16", "high": "float32"}
OPERATIONS = ("isqrt_pool", "covariance_pool", "newton_schulz_sqrt", "triu_vec", "triu_unvec")


@dataclass(frozen=True)
class Work:
    """Numbers on a device: ``launch`` runs the kernels on them, ``exact`` computes in float64 what they must give.

    Both give as many tensors (B, ...); the exact ones are on the CPU.
    """

    launch: Callable[[], list[Tensor]]
    exact: Callable[[], list[Tensor]]

    def errors(self, found: list[Tensor]) -> list[float]:
        """Relative errors of the worst sample; infinite where a result is not a number."""
        return [worst_sample_error(one.cpu(), true) for one, true in zip(found, self.exact(), strict=True)]


@dataclass(frozen=True)
class FunctionCheck:
    """A public function, forward and backward, on a backend.

    ``m`` positions are what a function of features is given. ``wraps`` takes so many samples for each multiprocessor,
    and one more: where no more of them find room at once, some CTA has two of them one after another.
    """

    backend: str
    operation: str
    c: int
    precision: str
    dtype: str
    output: str = "triu"
    channels_last: bool = False
    scaled: bool = False
    wraps: int = 0
    m: int = POSITIONS

    def __str__(self) -> str:
        size = f"C={self.c}" if self.m == POSITIONS else f"C={self.c} M={self.m}"
        words = [self.backend, self.operation, size, self.dtype, self.precision, self.output]
        return " ".join([*words, *self._flags("a CTA with two samples")])

    @property
    def kernel(self) -> str:
        return f"{self.backend} {self.operation}"

    @property
    def form(self) -> str:
        return " ".join([self.output, *self._flags("wraps")])

    def _flags(self, wraps: str) -> list[str]:
        flags = {"on positions": self.on_positions, "channels_last": self.channels_last, "scaled": self.scaled}
        return [name for name, given in {**flags, wraps: self.wraps}.items() if given]

    @property
    def on_positions(self) -> bool:
        """Whether it launches the CUDA kernels on the side of the positions; a launch of Triton's says that itself."""
        iterates = self.backend == "cuda" and self.operation == "isqrt_pool"
        return iterates and side_of(self.c, self.m) == sides.POSITIONS

    @property
    def shape(self) -> str:
        """Of what the function is given."""
        batch = str(SAMPLES)
        if self.wraps:
            batch = f"({'' if self.wraps == 1 else self.wraps}SMs+1)"
        return "x".join([batch, *map(str, self._shape)])

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of a sample."""
        if self.operation == "triu_unvec":
            return (self.c * (self.c + 1) // 2,)
        return self.c, self.m if self.operation.endswith("pool") else self.c

    @property
    def family(self) -> str:
        """What shares a process with it at first contact."""
        precision = "" if self.operation.startswith("triu") else f" {self.precision}"
        return f"{self.backend} {'triangle' if not precision else self.operation}{precision}"

    @property
    def difficulty(self) -> tuple[int, int]:
        """The simplest first: a plain call on few channels."""
        unusual = (self.output != "triu", self.channels_last, self.scaled, 2 * bool(self.wraps), self.on_positions)
        return sum(unusual), self.c

    def why_not(self, device: torch.device) -> str | None:
        """Why the backend cannot run it on this GPU."""
        x = torch.zeros((), dtype=DTYPES[self.dtype], device=device).expand(1, *self._shape)
        reason: str | None = backends.BACKENDS[self.backend].why_not(self.operation, x, self.precision)
        return reason

    def work(self, device: torch.device) -> Work:
        """Value and gradients, for a random upstream gradient."""
        numbers = self._numbers(device)
        leaves = [one.to(device).requires_grad_() for one in numbers]
        if self.channels_last:
            with torch.no_grad():
                leaves[0] = leaves[0].mT.contiguous().mT.requires_grad_()
        upstream = torch.randn(self._value_shape(len(numbers[0])), generator=torch.Generator().manual_seed(1))
        upstream = upstream.to(DTYPES[self.dtype])
        on_device = upstream.to(device)

        def value_and_gradients(leaves: list[Tensor], backend: str, upstream: Tensor) -> list[Tensor]:
            value = self._value(leaves, backend)
            return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]

        return Work(
            launch=lambda: value_and_gradients(leaves, self.backend, on_device),
            exact=lambda: value_and_gradients(
                [one.double().requires_grad_() for one in numbers], "reference", upstream.double()
            ),
        )

    @property
    def limit(self) -> float:
        """Twice the promise, and two roundings of the result."""
        half = self.dtype != "float32"
        return 2 * PROMISE[self.precision] + (torch.finfo(DTYPES[self.dtype]).eps if half else 0.0)

    def _numbers(self, device: torch.device) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.c)
        b = SAMPLES
        if self.wraps and device.type == "cuda":
            b = self.wraps * torch.cuda.get_device_properties(device).multi_processor_count + 1
        features = torch.randn(b, self.c, self.m, generator=generator).relu_()
        if self.operation in ("newton_schulz_sqrt", "triu_vec"):
            source = reference.covariance_pool(torch.randn(b, self.c, 2 * self.c, generator=generator).relu_())
        elif self.operation == "triu_unvec":
            source = torch.randn(b, *self._shape, generator=generator)
        else:
            source = features
        scales = [torch.rand(b, self.c, generator=generator) + 0.5] if self.scaled else []
        return [one.to(DTYPES[self.dtype]) for one in (source, *scales)]

    def _value_shape(self, b: int) -> tuple[int, ...]:
        triangle = self.operation == "triu_vec" or (self.operation.endswith("pool") and self.output == "triu")
        return (b, self.c * (self.c + 1) // 2) if triangle else (b, self.c, self.c)

    def _value(self, leaves: list[Tensor], backend: str) -> Tensor:
        if self.operation.startswith("triu"):
            function = gcp_kernels.triu_vec if self.operation == "triu_vec" else gcp_kernels.triu_unvec
            return function(leaves[0], backend=backend)
        # The reference is float64 here, which has one precision.
        options: dict[str, Any] = {"backend": backend, "precision": None if backend == "reference" else self.precision}
        if self.operation == "isqrt_pool":
            return gcp_kernels.fused_gcp(leaves[0], n_iter=N_ITER, output=self.output, **options)
        if self.operation == "newton_schulz_sqrt":
            return gcp_kernels.newton_schulz_sqrt(leaves[0], n_iter=N_ITER, **options)
        scale = leaves[1] if self.scaled else None
        return gcp_kernels.covariance_pool(leaves[0], scale=scale, output=self.output, **options)


@dataclass(frozen=True)
class LaunchCheck:
    """One pass of the Triton kernels in a form of launch that so few samples would not get; ``case`` holds it."""

    case: Any  # benchmarks.codegen.triton_kernels.KernelCase, which needs Triton

    backend = "triton"

    def __str__(self) -> str:
        case = self.case
        dtype = str(case.dtype).removeprefix("torch.")
        direction = "backward" if case.backward else "forward"
        layout = " channels_last" if case.channels_last else ""
        shared = " shared" if getattr(case.choice, "shared", False) else ""
        side = f" on{shared} positions M={case.m}" if case.on_positions else ""
        return f"triton {case.form}{side} {direction} of {case.source} C={case.c} {dtype} {case.precision}{layout}"

    @property
    def precision(self) -> str:
        return str(self.case.precision)

    @property
    def dtype(self) -> str:
        return str(self.case.dtype).removeprefix("torch.")

    @property
    def kernel(self) -> str:
        return f"triton {self.case.form} {'backward' if self.case.backward else 'forward'}"

    @property
    def form(self) -> str:
        case = self.case
        words = [case.source, "triu" if case.triu else "full", "channels_last" if case.channels_last else ""]
        return " ".join(word for word in words if word)

    @property
    def shape(self) -> str:
        """Of the features or matrices."""
        case = self.case
        return f"{case.b}x{case.c}x{case.c if case.source == 'matrix' else case.m}"

    @property
    def family(self) -> str:
        """What shares a process with it at first contact."""
        return f"{self.kernel} {self.precision}"

    @property
    def difficulty(self) -> tuple[int, int]:
        """The simplest first: contiguous features of few channels."""
        return self.case.channels_last + (self.case.source != "features"), self.case.c

    def why_not(self, device: torch.device) -> str | None:
        """Why Triton cannot run here."""
        x = torch.zeros((), dtype=self.case.dtype, device=device).expand(1, self.case.c, 1)
        reason: str | None = backends.BACKENDS["triton"].why_not("isqrt_pool", x, self.case.precision)
        return reason

    def work(self, device: torch.device) -> Work:
        """Give what the pass fills; it is filled with NaN before. Numbers and truth are made on the CPU."""
        from ..codegen.triton_kernels import Tensors
        from .triton_pass import Pass

        held = Pass(self.case, torch.device("cpu"))
        on_device = copy(held)
        on_device.tensors = Tensors(*(None if one is None else one.to(device) for one in vars(held.tensors).values()))

        def launch() -> list[Tensor]:
            for tensor in on_device.filled:
                tensor.fill_(math.nan)
            on_device.call(self.case)()
            return on_device.filled

        return Work(launch, lambda: held.exact)

    @property
    def limit(self) -> float:
        half = self.case.dtype != torch.float32
        return 2 * PROMISE[self.case.precision] + (torch.finfo(self.case.dtype).eps if half else 0.0)


Check = FunctionCheck | LaunchCheck


def checks(names: tuple[str, ...], capability: int) -> list[Check]:
    """All checks of the backends, for a GPU of this compute capability."""
    found: list[Check] = []
    if "cuda" in names:
        found += cuda_checks()
    if "triton" in names:
        found += triton_functions()
        found += triton_launches(capability)
    return found


def cuda_checks() -> Iterator[FunctionCheck]:
    """Both passes of every instantiation; a GPU's shared memory decides which of them stream matrices."""
    for precision, dtype in ARITHMETIC.items():
        yield from cuda_channels(precision, dtype)
        yield from cuda_positions(precision, dtype)
        for c in COVARIANCE_CHANNELS:
            plain = FunctionCheck("cuda", "covariance_pool", c, precision, dtype)
            yield plain
            yield replace(plain, scaled=True, output="full", channels_last=True)
        yield FunctionCheck("cuda", "covariance_pool", 256, precision, dtype, wraps=1)
        for operation in ("triu_vec", "triu_unvec"):
            yield FunctionCheck("cuda", operation, 100, precision, dtype)
    for c in COVARIANCE_CHANNELS:
        yield FunctionCheck("cuda", "covariance_pool", c, "fast", "float16")
    for precision, dtype in (("fast", "float16"), ("high", "float64")):
        for operation in ("triu_vec", "triu_unvec"):
            yield FunctionCheck("cuda", operation, 33, precision, dtype)


def cuda_channels(precision: str, dtype: str) -> Iterator[FunctionCheck]:
    """iSQRT-COV pooling by the CUDA kernels on the side of the channels."""

    def check(c: int, dtype: str, **options: Any) -> FunctionCheck:
        # At 49 positions rows are not aligned; up to 64 channels they are on this side, too.
        m = POSITIONS if c <= 64 else MANY_POSITIONS
        return FunctionCheck("cuda", "isqrt_pool", c, precision, dtype, m=m, **options)

    for c in CHANNELS:
        yield check(c, dtype)
    # Some CTA takes a second sample where matrices are streamed through its slab.
    yield check(256, dtype, wraps=1)
    for c in FORM_CHANNELS:
        for other in other_types(dtype):
            yield check(c, other)
    yield check(100, "float16", output="full", channels_last=True)


def cuda_positions(precision: str, dtype: str) -> Iterator[FunctionCheck]:
    """iSQRT-COV pooling on the side of the positions, where every CTA has a slab."""

    def check(c: int, m: int, dtype: str, **options: Any) -> FunctionCheck:
        return FunctionCheck("cuda", "isqrt_pool", c, precision, dtype, m=m, **options)

    for c, m in ON_POSITIONS:
        yield check(c, m, dtype)
    # An H100 has room for eight of the first at once on a multiprocessor, and for one of the second.
    yield check(96, 49, dtype, wraps=8)
    yield check(300, 196, dtype, wraps=1)
    for c, m in FORMS_ON_POSITIONS:
        for other in other_types(dtype):
            unusual = {} if other == "float16" else {"output": "full", "channels_last": True}
            yield check(c, m, other, **unusual)


def other_types(dtype: str) -> list[str]:
    return sorted({"float16", "bfloat16", "float32"} - {dtype})


def triton_functions() -> Iterator[FunctionCheck]:
    """As a user calls them, in the forms that the backend chooses."""
    for precision, dtype in ARITHMETIC.items():
        yield FunctionCheck("triton", "isqrt_pool", 32, precision, dtype)
        yield FunctionCheck("triton", "isqrt_pool", 256, precision, dtype, output="full", channels_last=True)
        yield FunctionCheck("triton", "newton_schulz_sqrt", 100, precision, dtype)
        yield FunctionCheck("triton", "covariance_pool", 100, precision, dtype, scaled=True)


def triton_launches(capability: int) -> Iterator[LaunchCheck]:
    """Every shipped configuration of the architecture, in every form."""
    from gcp_kernels.ops.triton_device import policy
    from gcp_kernels.ops.triton_device.architecture import Architecture
    from gcp_kernels.ops.triton_device.policy import Persistent, Phases

    from ..codegen.triton_kernels import KernelCase

    table = policy.choices(Architecture(capability, 1))
    for precision, planes in PLANES.items():
        dtype = DTYPES[ARITHMETIC[precision]]
        for backward in (False, True):

            def case(
                choice: Any, c: int, of: tuple[bool, str, torch.dtype] = (backward, precision, dtype), **options: Any
            ) -> LaunchCheck:
                return LaunchCheck(
                    KernelCase(choice, *of, c, **{"b": SAMPLES, "m": POSITIONS, "n_iter": N_ITER, **options})
                )

            on_chip = (table.on_chip_backward if backward else table.on_chip_forward)[planes]
            for choice in on_chip:
                yield case(choice, choice.block_c)
                yield case(choice, choice.block_c - 4, channels_last=True)
            positions = (table.positions_backward if backward else table.positions_forward)[planes]
            for choice in positions:
                yield case(choice, 100, m=choice.block_m - 7)
            yield case(replace(positions[-1], shared=True), 256, m=positions[-1].block_m, channels_last=True)
            tiling = (table.backward if backward else table.forward)[planes]
            # Three samples for two programs: a slab is used a second time.
            for c in CHANNELS:
                yield case(Persistent(tiling, programs=2), c)
            yield case(Persistent(tiling, programs=2), 100, source="matrix", m=1, triu=False)
            yield case(Persistent(tiling, 2, sides.POSITIONS), 150, m=100, channels_last=True)
            by_phase = table.phases[planes]
            chunk = by_phase.block_m * math.ceil(POSITIONS / 2 / by_phase.block_m)
            for c in (100, 256):
                yield case(Phases(by_phase, splits=math.ceil(POSITIONS / chunk), chunk=chunk), c)
            yield case(Phases(by_phase, splits=1, chunk=by_phase.block_m), 100, source="matrix", m=1, triu=False)
            halves = by_phase.block_m * math.ceil(75 / by_phase.block_m)
            yield case(Phases(by_phase, math.ceil(150 / halves), halves, sides.POSITIONS), 150, m=100)
            for c in (100, 256):
                yield case(policy.COVARIANCE, c)
                yield case(policy.COVARIANCE, c, source="scaled features", channels_last=True)
