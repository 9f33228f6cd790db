"""The pooling kernels' own source, compiled for the CPU and called through ctypes, on guarded memory."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gcp_kernels.architectures import TARGETS
from gcp_kernels.ops.sides import CHANNELS, POSITIONS, Side

from .guarded import GuardedBuffer, guarded_copy

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
ELEMENTS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
PLANES = {"fast": 1, "high": 2}
KERNELS = {CHANNELS: "isqrt_pool", POSITIONS: "isqrt_pool_positions"}
# The primitives that the kernels are compiled with, in place of those of a GPU.
PRIMITIVES = '-DGCP_PRIMITIVES="primitives_emulated.h"'

# Shared memory that a block may use: H100, H200 and B200; A100; GeForce RTX 30, 40 and 50.
SHARED_LIMITS = {TARGETS[arch].name: TARGETS[arch].shared_bytes for arch in (90, 80, 120)}

# How tensor cores round, see tensor_cores.h: products that are summed at once, and guard bits. What is known of B200 is
# known of H100 too; A100, and GPUs of 8.6 and 8.9, are the least accurate of those that the kernels run on.
TENSOR_CORES = {"sm_80": (8, 1), "sm_90": (16, 2)}

# Exit statuses, see emulation.h; the last is that of a touched guard page.
DIVERGENT_BARRIER, DIVERGENT_WARP, RACE, OUT_OF_BOUNDS, SLAB_RACE = 3, 4, 5, 6, 7
SEGMENTATION_FAULT, UNDEFINED = 128 + 11, 128 + 4  # the second: behaviour for which the sanitizer traps

_pointer, _int64, _int, _bool = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_bool


def _structure(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


# As in csrc/device/arguments.h.
_Features = _structure(
    "Features", data=_pointer, b=_int64, c=_int64, m=_int64, element=_int, channels=_int, positions=_int
)
_SymmetricOutput = _structure("SymmetricOutput", data=_pointer, element=_int, channels=_int, triangle=_bool)
_SymmetricGradient = _structure(
    "SymmetricGradient", data=_pointer, b=_int64, row=_int64, column=_int64, element=_int, channels=_int, triangle=_bool
)
_FeatureGradient = _structure("FeatureGradient", data=_pointer, b=_int64, c=_int64, m=_int64)
_ChannelScale = _structure("ChannelScale", data=_pointer, b=_int64, c=_int64, element=_int)


class LaunchFailed(AssertionError):
    """A launch ended with a status other than 0."""

    def __init__(self, kernel: str, status: int) -> None:
        super().__init__(f"{kernel} under emulation ended with status {status}")
        self.status = status


@dataclass(frozen=True)
class Layout:
    """See csrc/policy.h."""

    blocks: int
    matrices: int
    resident: int
    ring_columns: int
    shared_bytes: int
    slab_bytes: int
    warps: int
    room: int


def compiled(csrc: Path, build: Path, *options: str) -> Path:
    """Compile the kernels of a copy of csrc for the CPU, into a library in ``build``.

    An out-of-bounds index or a signed overflow traps there, without a sanitizer library.
    """
    library = build / "pooling_emulated.so"
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-O1", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", *options]
    command += ["-fsanitize=alignment,bounds,signed-integer-overflow,shift", "-fsanitize-undefined-trap-on-error"]
    command += [f"-I{HERE}", f"-I{csrc}", PRIMITIVES, str(HERE / "pooling_emulated.cpp"), "-o", str(library)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


class Emulation:
    """The kernels of a compiled library, run in one order of threads, with a GPU's shared memory and rounding."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.shared_limit = SHARED_LIMITS["sm_90"]
        self.backwards = False
        self.grid = 2
        self.tensor_core = TENSOR_CORES["sm_80"]

    def layout(self, channels: int, planes: int, backward: bool = False) -> Layout:
        """Of a pass of iSQRT-COV pooling; a covariance takes what the forward pass takes with one plane."""
        result = (ctypes.c_int64 * 8)()
        self._library.layout_of(channels, planes, backward, self.shared_limit, result)
        return Layout(*result)

    def tiling(self, blocks: int, rows: int) -> tuple[list[tuple[int, int, int]], int]:
        """Of each warp the row and column where its tile begins and the blocks owned; those of the busiest quarter."""
        result = (ctypes.c_int * (3 * 16))()
        busiest = self._library.tiling_of(blocks, rows, result)
        return list(zip(result[::3], result[1::3], result[2::3], strict=True)), busiest

    @property
    def products(self) -> int:
        """Warp-level products of 16x16 blocks in the last launch: two ``mma`` instructions each."""
        return self._library.products_executed()

    def multiply_add(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Compute ``a b + c`` of (16, 16) blocks, float16 and float32, as the tensor cores do."""
        result = c.clone()
        operands = a.contiguous(), b.contiguous()
        self._set_tensor_core()
        self._library.multiply_on_tensor_core(*map(_at, operands), _at(result))
        return result

    def positions_layout(self, channels: int, positions: int, planes: int, backward: bool = False) -> Layout:
        """Of a pass of iSQRT-COV pooling on the side of the positions."""
        result = (ctypes.c_int64 * 8)()
        self._library.positions_layout_of(channels, positions, planes, backward, self.shared_limit, result)
        return Layout(*result)

    def isqrt_pool(
        self, x: Tensor, n_iter: int, triu: bool, precision: str, side: Side = CHANNELS
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, M) -> pooled, centre (B, C), trace (B,)."""
        b, c, m = x.shape
        pooled, centre, trace = _pooled(x, triu), GuardedBuffer(b * c, torch.float32), GuardedBuffer(b, torch.float32)
        planes = PLANES[precision]
        slabs = self._slabs(self.layout(c, planes) if side == CHANNELS else self.positions_layout(c, m, planes))
        self._launch(
            *(f"{KERNELS[side]}_forward", _features(x), _output(pooled, x, triu), _at(centre), _at(trace), _at(slabs)),
            *(_int64(b), n_iter, PLANES[precision]),
        )
        _assert_intact(pooled, centre, trace, slabs)
        return _shaped(pooled, x, triu), centre.elements.view(b, c), trace.elements

    def isqrt_pool_backward(
        self, grad: Tensor, x: Tensor, centre: Tensor, trace: Tensor, n_iter: int, triu: bool, precision: str,
        side: Side = CHANNELS,
    ) -> Tensor:  # fmt: skip
        """Gradient of ``x``, laid out like it."""
        b, c, m = x.shape
        planes = PLANES[precision]
        layout = self.layout(c, planes, True) if side == CHANNELS else self.positions_layout(c, m, planes, True)
        grad_x, slabs = GuardedBuffer(x.numel(), x.dtype), self._slabs(layout)
        result = _laid_out_like(x, grad_x)
        self._launch(
            *(f"{KERNELS[side]}_backward", _gradient(grad, c, triu), _features(x), _at(centre), _at(trace)),
            *(_FeatureGradient(result.data_ptr(), *result.stride()), _at(slabs), _int64(b), n_iter, PLANES[precision]),
        )
        _assert_intact(grad_x, slabs)
        return result

    def covariance_pool(self, x: Tensor, scale: Tensor | None, triu: bool, precision: str) -> tuple[Tensor, Tensor]:
        """(B, C, M), (B, C) -> covariance, centre (B, C)."""
        b, c, _ = x.shape
        pooled, centre = _pooled(x, triu), GuardedBuffer(b * c, torch.float32)
        slabs = self._slabs(self.layout(c, 1))
        self._launch(
            *(
                "covariance_pool_forward",
                _features(x),
                _scale(scale),
                _output(pooled, x, triu),
                _at(centre),
                _at(slabs),
            ),
            *(_int64(b), PLANES[precision]),
        )
        _assert_intact(pooled, centre, slabs)
        return _shaped(pooled, x, triu), centre.elements.view(b, c)

    def covariance_pool_backward(
        self, grad: Tensor, x: Tensor, scale: Tensor | None, centre: Tensor, triu: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of ``x`` and of the scale."""
        b, c, _ = x.shape
        grad_x, slabs = GuardedBuffer(x.numel(), x.dtype), self._slabs(self.layout(c, 1))
        grad_scale = GuardedBuffer(b * c, torch.float32 if scale is None else scale.dtype)
        result = _laid_out_like(x, grad_x)
        self._launch(
            *("covariance_pool_backward", _gradient(grad, c, triu), _features(x), _scale(scale), _at(centre)),
            *(_FeatureGradient(result.data_ptr(), *result.stride()), _at(grad_scale), _at(slabs), _int64(b)),
        )
        _assert_intact(grad_x, grad_scale, slabs)
        return result, None if scale is None else grad_scale.elements.view(b, c)

    def _slabs(self, layout: Layout) -> GuardedBuffer:
        # Ends at a protected page, begins 16-byte aligned; its floats are the kernels' raw memory, and the bits of all
        # of it are set: NaN as float32 and as two halves.
        slabs = GuardedBuffer(max(self.grid * layout.slab_bytes // 4, 4), torch.float32)
        slabs.elements.view(torch.int32).fill_(-1)
        return slabs

    def _set_tensor_core(self) -> None:
        assert self._library.set_tensor_core(*self.tensor_core) == 0, f"no tensor core like {self.tensor_core}"

    def _launch(self, kernel: str, *arguments: object) -> None:
        # Structures are passed by pointer.
        passed = [ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments]
        run = getattr(self._library, f"{kernel}_emulated")
        self._set_tensor_core()
        status = run(*passed, self.shared_limit, self.grid, int(self.backwards))
        if status:
            raise LaunchFailed(kernel, status)


def _at(memory: GuardedBuffer | Tensor) -> ctypes.c_void_p:
    return _pointer((memory if isinstance(memory, Tensor) else memory.elements).data_ptr())


def _assert_intact(*buffers: GuardedBuffer) -> None:
    for buffer in buffers:
        buffer.assert_intact()


def _features(x: Tensor) -> ctypes.Structure:
    return _Features(x.data_ptr(), *x.stride(), ELEMENTS[x.dtype], x.shape[1], x.shape[2])


def _output(pooled: GuardedBuffer, x: Tensor, triu: bool) -> ctypes.Structure:
    return _SymmetricOutput(pooled.elements.data_ptr(), ELEMENTS[x.dtype], x.shape[1], triu)


def _gradient(grad: Tensor, channels: int, triu: bool) -> ctypes.Structure:
    strides = (*grad.stride(), 0) if triu else grad.stride()
    return _SymmetricGradient(grad.data_ptr(), *strides, ELEMENTS[grad.dtype], channels, triu)


def _scale(scale: Tensor | None) -> ctypes.Structure:
    if scale is None:
        return _ChannelScale(None, 0, 0, 0)
    return _ChannelScale(scale.data_ptr(), *scale.stride(), ELEMENTS[scale.dtype])


def _pooled(x: Tensor, triu: bool) -> GuardedBuffer:
    b, c, _ = x.shape
    return GuardedBuffer(b * (c * (c + 1) // 2 if triu else c * c), x.dtype)


def _shaped(pooled: GuardedBuffer, x: Tensor, triu: bool) -> Tensor:
    b, c, _ = x.shape
    return pooled.elements.view(b, -1) if triu else pooled.elements.view(b, c, c)


def _laid_out_like(x: Tensor, buffer: GuardedBuffer) -> Tensor:
    b, c, m = x.shape
    if c > 1 and x.stride(1) == 1 and x.stride(2) >= c:
        return buffer.elements.view(b, m, c).transpose(1, 2)
    return buffer.elements.view(b, c, m)


__all__ = ["CSRC", "Emulation", "LaunchFailed", "guarded_copy"]
